"""The pool that sealed volumes lie in: full, failing, and named."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sevfork.agent import memory_use
from sevfork.errors import HostCannot, WrongState
from sevfork.host import agent_client
from sevfork.host.hypervisor import DomainState
from sevfork.lifecycle import agents
from sevfork.lifecycle.fork import ForkRequest, plan_fork, run_fork
from sevfork.lifecycle.reap import reap
from tests.support.fake_guests import STATE, FakeGuest, FakeHouse
from tests.support.jobs import job_on


def fork(house: FakeHouse) -> None:
    run_fork(job_on(house), plan_fork(house, ForkRequest("web")))


def assert_the_parent_serves_on(house: FakeHouse, parent: FakeGuest) -> None:
    assert [domain.name for domain in house.domains()] == ["web"]
    assert volumes(house) == []
    assert parent.state == STATE


def test_room_is_asked_for_before_a_capture_begins(
    house: FakeHouse, parent: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house.storage, "free_bytes", lambda: 100 * 2**20)
    monkeypatch.setattr("sevfork.agent.agent.state_bytes", lambda: 80 * 2**20)
    with pytest.raises(HostCannot, match=r"pool at '/pool' has 100 MiB free.* may need 132 MiB"):
        fork(house)
    assert "Capture" not in {type(each).__name__ for each in house.heard}
    assert_the_parent_serves_on(house, parent)


def test_no_more_room_is_asked_for_than_the_volume_can_take(
    house: FakeHouse, parent: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_fork(house, ForkRequest("web"))
    monkeypatch.setattr(house.storage, "free_bytes", lambda: plan.volume_bytes)
    monkeypatch.setattr("sevfork.agent.agent.state_bytes", lambda: 2**40)
    assert run_fork(job_on(house), plan).children[0].error is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["pwritev", "fsync", "preadv"])
def test_a_volume_that_fails_is_told_with_its_pool_and_the_parent_serves_on(
    house: FakeHouse,
    parent: FakeGuest,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    call: str,
) -> None:
    def fails(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        with pytest.raises(HostCannot) as caught:
            fork(house)
    assert os.strerror(number) in caught.value.message
    assert "the storage pool at '/pool' has 1048576 MiB free" in caught.value.message
    assert_the_parent_serves_on(house, parent)
    fork(house)


def test_the_volume_of_a_parent_that_is_paused_goes_with_the_next_command_after_that(
    house: FakeHouse, parent: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_client, "SILENCE_S", 0.02)
    monkeypatch.setattr(agents, "PAUSE_S", 0.05)
    (domain,) = house.domains()

    def watch(who: str, phase: str, done: int = 0, total: int = 0) -> None:
        if phase == "flush":
            house.pause(domain.uuid)

    plan = plan_fork(house, ForkRequest("web"))
    with pytest.raises(WrongState, match="'web' is paused") as caught:
        run_fork(job_on(house, watch=watch), plan)
    assert "resume 'web'" in str(caught.value.hint)
    assert volumes(house) == [plan.volume_name]

    monkeypatch.setattr("sevfork.host.maker.tagged_by_the_dead", plan.volume_name.__eq__)
    said: list[str] = []
    reap(house, said.append)
    (warning,) = said
    assert "could not be cleaned up: 'web' is paused" in warning
    assert volumes(house) == [plan.volume_name]

    house.pause(domain.uuid, DomainState.RUNNING)
    reap(house, said.append)
    assert said[1:] == [f"deleting volume '{plan.volume_name}': the command that made it has ended"]
    assert volumes(house) == []
    assert plan.volume_name not in house.xml(domain.uuid)
    fork(house)


def volumes(house: FakeHouse) -> list[str]:
    return [name for name in house.storage.files if name.endswith(".sealed")]


def test_the_state_that_a_guest_holds_is_its_processes_memory_and_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 900 kB\nAnonPages:   300 kB\nMapped: 5 kB\nShmem:  20 kB\n")
    monkeypatch.setattr(memory_use, "MEMINFO", meminfo)
    assert memory_use.state_bytes() == 320 * 1024
