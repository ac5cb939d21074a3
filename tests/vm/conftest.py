"""The fixture behind which every real guest runs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from sevfork.host import connection_choice, private_libvirtd
from sevfork.host.hypervisor import Hypervisor
from tests.vm.lab import Lab, Vm

CHOSEN_LIBVIRT = {"SEVFORK_STATE_DIR", "SEVFORK_CONNECT", "LIBVIRT_DEFAULT_URI"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.vm)
            # Emulated, and the first test of a workload builds its image.
            item.add_marker(pytest.mark.timeout(900))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep a failed test's serial logs before the guests are removed."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if lab is not None and report.when == "call" and report.failed:
        report.sections.append(("serial logs", lab.serial_logs()))
    return report


@pytest.fixture(scope="session")
def own_libvirtd() -> Iterator[None]:
    """A private libvirtd of this process alone: two streams of guests see nothing of each other.

    Unless the environment says which libvirt the guests are to run under.
    """
    if os.geteuid() != 0 or CHOSEN_LIBVIRT & os.environ.keys():
        yield
        return
    # Not in /tmp, which is memory on Debian 13: the volumes of a dozen images lie there.
    folder = tempfile.mkdtemp(prefix="sfg-", dir="/var/tmp")
    os.environ["SEVFORK_STATE_DIR"] = folder
    try:
        yield
    finally:
        private_libvirtd.stop(private_libvirtd.Layout.of(os.environ))
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def lab(own_libvirtd: None) -> Iterator[Lab]:
    """All guests of one run; removed at its end, whatever happened."""
    lab = Lab()
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture(scope="session")
def hypervisor(own_libvirtd: None) -> Iterator[Hypervisor]:
    """For tests that play a host of their own."""
    connection = connection_choice.connect(None, print)
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def redis_parent(lab: Lab) -> Vm:
    """A Redis that several tests fork, one after another."""
    return lab.up("redis")
