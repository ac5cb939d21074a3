"""A volume that fails under real guests: where the parent writes it, and where a child reads it.

Each time the fork ends with exit code 13 and names the pool, the parent serves on, and nothing is
left.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sevfork.domain import disks
from sevfork.errors import HostCannot
from sevfork.host.hypervisor import Hypervisor
from sevfork.lifecycle.fork import ForkRequest, plan_fork, run_fork, sealed_volume
from sevfork.lifecycle.fork.child import make_child
from sevfork.lifecycle.undo import Undo
from tests.support.faulty_disk import Command, Fails, FaultyDisk, Request
from tests.support.jobs import captured_fork, job_on
from tests.vm.lab import Lab, Vm

MIB = 2**20
HEADER = 4096
MIDDLE = HEADER + 5 * MIB + 77
# Far more than a fork takes that fails, far less than a test may: a hang ends as TimedOut.
LIMIT_S = 150


@pytest.fixture(scope="module")
def parent(redis_parent: Vm) -> Vm:
    # Some MiB, so that the sealed image has a middle.
    redis_parent.redis().set("bulk", secrets.token_bytes(8 * MIB))
    return redis_parent


@pytest.fixture(autouse=True)
def the_parent_serves_on_and_nothing_is_left(lab: Lab, parent: Vm) -> Iterator[None]:
    yield
    assert parent.redis().strlen("bulk") == 8 * MIB
    assert not [name for name in lab.vms() if name.startswith(f"{parent.name}-fork")]
    assert lab.leftovers() == []


def writes(position: int) -> Fails:
    return lambda request: request.command is Command.WRITE and request.touches(position)


def reads(position: int) -> Fails:
    return lambda request: request.command is Command.READ and request.touches(position)


def flushes(request: Request) -> bool:
    return request.command is Command.FLUSH


@contextmanager
def failing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: Fails, *, readonly: bool
) -> Iterator[list[FaultyDisk]]:
    """Whoever reads the volume (or whoever writes it) has it plugged in as a disk that fails."""
    served: list[FaultyDisk] = []
    wanted = readonly
    with monkeypatch.context() as patch, ExitStack() as stack:

        def disk_xml(
            path: str, serial: str, target: str, *, readonly: bool, shared: bool = False
        ) -> str:
            xml = disks.disk_xml(path, serial, target, readonly=readonly, shared=shared)
            if readonly is not wanted:
                return xml
            at = tmp_path / serial
            served.append(stack.enter_context(FaultyDisk(Path(path), at, fails).served()))
            return over_network(xml, path, at)

        patch.setattr(sealed_volume, "disk_xml", disk_xml)
        yield served


def over_network(xml: str, path: str, socket_path: Path) -> str:
    host = f'<host transport="unix" socket="{socket_path}"/>'
    source = f'<source protocol="nbd" name="">{host}</source>'
    changed = xml.replace(f'<source file="{path}"/>', source)
    return changed.replace('type="file"', 'type="network"')


def assert_told(error: HostCannot, what: str) -> None:
    assert error.exit_code == 13
    assert f"the volume cannot be {what}: Input/output error" in error.message
    assert "the storage pool at '/" in error.message


@pytest.mark.parametrize(
    ("fails", "what"),
    [
        pytest.param(writes(0), "written", id="header"),
        pytest.param(writes(HEADER), "written", id="first chunk"),
        pytest.param(writes(MIDDLE), "written", id="middle chunk"),
        pytest.param(flushes, "flushed", id="flush"),
    ],
)
def test_where_the_parent_writes(
    hypervisor: Hypervisor,
    parent: Vm,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    fails: Fails,
    what: str,
) -> None:
    plan = plan_fork(hypervisor, ForkRequest(parent.name))
    with failing(monkeypatch, tmp_path, fails, readonly=False) as served:
        with pytest.raises(HostCannot) as caught:
            run_fork(job_on(hypervisor, seconds=LIMIT_S), plan)
        (disk,) = served
        assert disk.failed
    assert_told(caught.value, what)


def test_a_write_that_fails_once_is_written_again(
    lab: Lab, hypervisor: Hypervisor, parent: Vm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there, left = writes(MIDDLE), [True]
    plan = plan_fork(hypervisor, ForkRequest(parent.name))

    def once(request: Request) -> bool:
        return there(request) and bool(left) and left.pop()

    with failing(monkeypatch, tmp_path, once, readonly=False) as served:
        (child,) = run_fork(job_on(hypervisor, seconds=LIMIT_S), plan).children
    assert child.error is None
    assert len(served[0].failed) == 1
    lab.run("rm", child.name)


def test_a_volume_that_hangs(
    hypervisor: Hypervisor, parent: Vm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there, enough, detach = writes(MIDDLE), threading.Event(), hypervisor.detach_disk

    def hangs(request: Request) -> bool:
        return there(request) and enough.wait()

    def detach_disk(uuid: str, xml: str, target: str, timeout_s: float) -> None:
        enough.set()
        detach(uuid, xml, target, timeout_s)

    monkeypatch.setattr(hypervisor, "detach_disk", detach_disk)
    plan = plan_fork(hypervisor, ForkRequest(parent.name))
    with (
        failing(monkeypatch, tmp_path, hangs, readonly=False),
        pytest.raises(HostCannot, match="the volume does not answer"),
    ):
        run_fork(job_on(hypervisor, seconds=LIMIT_S), plan)


def test_where_a_child_reads(
    lab: Lab, hypervisor: Hypervisor, parent: Vm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = tuple(f"{parent.name}-fork{index}" for index in range(4))
    plan = plan_fork(hypervisor, ForkRequest(parent.name))
    plan = replace(plan, request=replace(plan.request, count=4, name=names[0]), names=names)
    job = job_on(hypervisor, seconds=4 * LIMIT_S)
    with captured_fork(job, plan) as (fork, capture), Undo() as undo:
        last = HEADER + capture.sealed_bytes - MIB
        for index, position in enumerate((0, MIDDLE, last)):
            with failing(monkeypatch, tmp_path, reads(position), readonly=True) as served:
                with pytest.raises(HostCannot) as caught:
                    make_child(job, fork, index, undo)
                assert served[0].failed
            assert_told(caught.value, "read")
            assert names[index] not in lab.vms()
        assert make_child(job, fork, 3, undo).error is None
    lab.run("rm", names[3])
