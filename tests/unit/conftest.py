"""What unit tests share; none starts a process, opens a socket or has libvirt."""

from __future__ import annotations

import os
import socket
import ssl  # noqa: F401  # before the socket is taken away that it has a subclass of
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import cast

import hypothesis
import pytest

from sevfork.host import command_record
from sevfork.image.image import Image
from sevfork.lifecycle.ports import PortWish
from sevfork.lifecycle.up import UpRequest, plan_up, run_up
from tests.support import genuine, simulators
from tests.support.certificate_memory import remember_certificates
from tests.support.fake_guests import STATE, FakeGuest, FakeHouse, measured_for, shorten_pauses
from tests.support.image_factory import write_image
from tests.support.jobs import job_on

# No test is timed: a busy machine must not fail one.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def _hide_libvirt(patched: pytest.MonkeyPatch) -> None:
    """Whoever imports it fails, as where it is not installed."""
    for name in ("libvirt", "libvirt_qemu"):
        patched.setitem(sys.modules, name, cast(ModuleType, None))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Around the import of each test file in this folder, and of none beside it."""
    with pytest.MonkeyPatch.context() as patched:
        _hide_libvirt(patched)
        return (yield)


@pytest.fixture(autouse=True)
def _nothing_leaves_the_process(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hide_libvirt(monkeypatch)
    monkeypatch.setattr(command_record, "SOCKET", Path("/dev/null/log"))
    # What a test has written need not outlive a power cut: each would wait for the disk.
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    if request.node.get_closest_marker("own_processes"):
        return

    def refused(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a unit test starts no process and opens no socket")

    monkeypatch.setattr(subprocess, "Popen", refused)
    monkeypatch.setattr(socket, "socket", refused)


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of genuine samples, which is not part of the project."""
    return genuine.find(".")


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An XDG data directory with a simulated processor."""
    data = tmp_path_factory.mktemp("data")
    simulators.install(data / "sevfork" / "simulator")
    return data


@pytest.fixture
def _steady_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine holds is another at every look, and so would an agent's status be."""
    monkeypatch.setattr("sevfork.agent.agent.state_bytes", lambda: 64 * 2**20)


@pytest.fixture
def house(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, simulator: Path, _steady_memory: None
) -> FakeHouse:
    monkeypatch.setenv("XDG_DATA_HOME", str(simulator))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remember_certificates(monkeypatch)
    simulators.remember_key(monkeypatch)
    shorten_pauses(monkeypatch)
    for module in ("captures", "unsealed"):
        monkeypatch.setattr(f"sevfork.agent.{module}.find_volume", lambda serial: tmp_path / serial)
    return FakeHouse(tmp_path, measured_for(simulators.processor()))


@pytest.fixture
def parent(house: FakeHouse, tmp_path: Path) -> FakeGuest:
    image = Image.load(write_image(tmp_path / "image"))
    request = UpRequest("web", image, publish=(PortWish(None, 6379),))
    made = run_up(job_on(house), plan_up(house, request))
    guest = house.guests[made.spec.uuid]
    guest.state = STATE
    return guest
