"""kill -9, at each moment of an update, and of a pool: nothing is lost by it.

The tests share one parent.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from scripts.client import Result, Running
from sevfork.domain.disks import volume_paths
from sevfork.domain.xml import spec_from_xml
from sevfork.host import connection_choice
from sevfork.host.hypervisor import Hypervisor
from sevfork.lifecycle.snapshot import volume
from tests.vm.lab import Lab, Vm

_MOMENT_S = 200.0


@contextmanager
def host() -> Iterator[Hypervisor]:
    with closing(connection_choice.connect(None, print)) as connected:
        yield connected


@pytest.fixture(scope="module")
def parent(lab: Lab) -> Iterator[Vm]:
    parent = lab.up("family")
    yield parent
    lab.remove(parent)
    assert lab.leftovers() == []


def snapshots_plugged_into(uuid: str) -> list[str]:
    with host() as hypervisor:
        return [path for path in volume_paths(hypervisor.xml(uuid)) if path.endswith(".snapshot")]


def snapshots_in_the_pool() -> list[str]:
    with host() as hypervisor:
        found = [each.path for each in hypervisor.storage.volumes()]
    return [path for path in found if path.endswith(".snapshot")]


def children_of(parent: Vm) -> list[str]:
    with host() as hypervisor:
        named = [domain.name for domain in hypervisor.domains()]
    return [name for name in named if name.startswith(f"{parent.name}-fork")]


def when(happens: Callable[[], object], process: Running) -> None:
    deadline = time.monotonic() + _MOMENT_S
    while not happens():
        assert process.process.poll() is None, f"it has ended:\n{''.join(process.lines)}"
        assert time.monotonic() < deadline, f"it never came to that:\n{''.join(process.lines)}"
        time.sleep(0.05)


def assert_it_serves_on(lab: Lab, parent: Vm) -> None:
    assert isinstance(parent.json("/children")["children"], list)
    assert lab.vms()[parent.name]["state"] == "running"


def assert_snapshots_go_on(lab: Lab, parent: Vm) -> Result:
    """And one volume is plugged in, whatever was before."""
    done = lab.run("snapshot", parent.name, "--json")
    assert done.data["layers"] >= 1
    assert done.data["begun_anew"] or done.data["layers"] > 1
    assert snapshots_plugged_into(parent.uuid) == snapshots_in_the_pool()
    assert len(snapshots_in_the_pool()) == 1
    assert_it_serves_on(lab, parent)
    return done


@pytest.mark.parametrize("anew", [True, False], ids=["base", "update"])
@pytest.mark.parametrize("phase", ["connect", "copy", "freeze", "flush"])
def test_the_updater_is_killed(lab: Lab, parent: Vm, phase: str, anew: bool) -> None:
    if anew:
        lab.run("snapshot", parent.name, "--drop")
    else:
        lab.run("snapshot", parent.name)
    with lab.running("snapshot", parent.name, "--debug") as updater:
        updater.wait_for(f"phase: {phase}")
        assert updater.signal(signal.SIGKILL) == -signal.SIGKILL
    assert_it_serves_on(lab, parent)
    assert_snapshots_go_on(lab, parent)


def test_the_updater_is_killed_as_soon_as_its_volume_is_plugged_in(lab: Lab, parent: Vm) -> None:
    lab.run("snapshot", parent.name, "--drop")
    with lab.running("snapshot", parent.name) as updater:
        when(lambda: snapshots_plugged_into(parent.uuid), updater)
        updater.signal(signal.SIGKILL)
    assert_it_serves_on(lab, parent)
    assert_snapshots_go_on(lab, parent)


def test_a_kill_between_two_volumes(lab: Lab, parent: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.run("snapshot", parent.name)
    monkeypatch.setattr(volume, "delete_former", lambda *_: ())  # it never came to that
    with host() as hypervisor:
        volume.plug_new(hypervisor, spec_from_xml(hypervisor.xml(parent.uuid)))
    assert len(snapshots_plugged_into(parent.uuid)) == 2
    after = assert_snapshots_go_on(lab, parent)
    assert "the command that took it out of use was killed" in after.stderr


def test_the_pool_is_killed_while_a_child_boots(lab: Lab, parent: Vm) -> None:
    with lab.running("pool", parent.name) as pool:
        when(lambda: children_of(parent), pool)
        pool.signal(signal.SIGKILL)
    assert_tidied_by_ls(lab, parent)


def test_the_pool_is_killed_while_a_child_gets_the_snapshot(lab: Lab, parent: Vm) -> None:
    with lab.running("pool", parent.name) as pool:
        when(lambda: has_the_snapshot(parent), pool)
        pool.signal(signal.SIGKILL)
    assert_tidied_by_ls(lab, parent)


def has_the_snapshot(parent: Vm) -> bool:
    with host() as hypervisor:
        children = [each for each in hypervisor.domains() if each.name in children_of(parent)]
        return any(".snapshot" in hypervisor.xml(child.uuid) for child in children)


def assert_tidied_by_ls(lab: Lab, parent: Vm) -> None:
    told = lab.run("ls").stderr
    assert "the command that made it was killed" in told
    assert children_of(parent) == []
    assert_it_serves_on(lab, parent)
    assert_snapshots_go_on(lab, parent)
