"""Waiting for workloads to end, with real agents on a hypervisor in memory."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest

from sevfork import errors
from sevfork.agent.agent import Agent
from sevfork.domain import metadata_xml
from sevfork.domain.metadata import Phase
from sevfork.handshake import InstanceKey
from sevfork.host.hypervisor import DomainState
from sevfork.lifecycle import listen
from sevfork.lifecycle import wait as waiting
from sevfork.lifecycle.fork import ForkRequest, plan_fork, run_fork
from sevfork.lifecycle.wait import Ending, wait_for
from sevfork.wire import protocol
from sevfork.wire.protocol import LifeEvent
from tests.support.fake_guests import FakeGuest, FakeHouse
from tests.support.jobs import job_on


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_POLL_S", 0.01)
    monkeypatch.setattr(listen, "_ANSWER_S", 0.05)


@pytest.fixture
def children(house: FakeHouse, parent: FakeGuest) -> list[FakeGuest]:
    made = run_fork(job_on(house), plan_fork(house, ForkRequest("web", count=2)))
    return [house.guests[child.uuid] for child in made.children]


def waited(
    house: FakeHouse, *names: str, any_of_them: bool = False, seconds: float = 60
) -> list[Ending]:
    job = job_on(house, seconds=seconds)
    endings = wait_for(job, names, any_of_them=any_of_them, lost_after_s=0.1, note=print)
    return list(endings)


def said(guest: FakeGuest) -> list[LifeEvent]:
    life = guest.agent.handle(protocol.Events(), lambda *_: None)
    assert isinstance(life, protocol.Life)
    return [each.event for each in life.events]


@pytest.mark.parametrize("returncode", [0, 3, 255, -signal.SIGKILL])
def test_a_childs_workload_ends_as_waitpid_tells(
    house: FakeHouse, children: list[FakeGuest], returncode: int
) -> None:
    children[0].end(returncode)
    (ending,) = waited(house, "web-fork")
    assert (ending.name, ending.returncode, ending.error) == ("web-fork", returncode, None)
    assert ending.exit_code == (returncode if returncode >= 0 else 128 - returncode)
    assert not house.busy, "a channel was left open"
    assert said(children[0]) == [LifeEvent.RESTORED, LifeEvent.READY, LifeEvent.EXITED]
    assert said(children[0])[2:] == [LifeEvent.EXITED], "it ends once, however often it is asked"


def test_a_root_can_be_waited_for(house: FakeHouse, parent: FakeGuest) -> None:
    parent.end(7)
    assert [each.exit_code for each in waited(house, "web")] == [7]
    assert said(parent) == [LifeEvent.READY, LifeEvent.EXITED]


def test_a_root_has_nobody_to_seal_its_events_for(house: FakeHouse, parent: FakeGuest) -> None:
    life = parent.agent.handle(protocol.Events(), lambda *_: None)
    assert isinstance(life, protocol.Life)
    assert [each.sealed for each in life.events] == [b""]


def test_who_runs_on_is_named_when_the_time_is_over(
    house: FakeHouse, children: list[FakeGuest]
) -> None:
    children[0].end(0)
    with pytest.raises(errors.TimedOut, match="still runs: 'web-fork1'$"):
        waited(house, "web-fork", "web-fork1", seconds=0.1)


def test_any_of_them_is_enough(house: FakeHouse, children: list[FakeGuest]) -> None:
    children[1].end(4)
    endings = waited(house, "web-fork", "web-fork1", any_of_them=True)
    assert [(each.name, each.returncode) for each in endings] == [("web-fork1", 4)]


def test_endings_come_in_the_order_that_was_given(
    house: FakeHouse, children: list[FakeGuest]
) -> None:
    for guest in children:
        guest.end(0)
    endings = waited(house, "web-fork1", "web-fork", "web-fork1")
    assert [each.name for each in endings] == ["web-fork1", "web-fork"]


def test_a_vm_that_ends_altogether_is_lost(house: FakeHouse, children: list[FakeGuest]) -> None:
    house.end(house.find("web-fork").uuid)
    (ending,) = waited(house, "web-fork")
    assert isinstance(ending.error, errors.Lost)
    assert (ending.exit_code, str(ending)) == (33, "'web-fork' is lost: its VM is shut off")


def test_a_vm_that_is_removed_meanwhile_is_lost(
    house: FakeHouse, children: list[FakeGuest], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([None])

    def look_away(*_: object) -> None:
        next(looks)
        uuid = house.find("web-fork").uuid
        house.destroy(uuid)
        house.undefine(uuid)

    monkeypatch.setattr("sevfork.lifecycle.job.Job._sleep", look_away)
    (ending,) = waited(house, "web-fork")
    assert str(ending) == "'web-fork' is lost: its VM was removed"


def test_a_silent_agent_is_lost_after_a_while_and_not_at_once(
    house: FakeHouse, children: list[FakeGuest], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def silent(*_: object) -> None:
        tries.append(1)
        raise errors.TimedOut("no agent answered in the VM")

    monkeypatch.setattr(listen, "life_of", silent)
    (ending,) = waited(house, "web-fork")
    assert isinstance(ending.error, errors.Lost)
    assert "said nothing of use" in ending.error.message
    assert len(tries) > 1


@pytest.mark.parametrize("state", [DomainState.PAUSED, DomainState.SUSPENDED])
def test_who_is_paused_is_not_lost(
    house: FakeHouse, children: list[FakeGuest], state: DomainState
) -> None:
    uuid = house.find("web-fork").uuid
    house.defined[uuid] = (house.defined[uuid][0], state)
    with pytest.raises(errors.TimedOut, match="still runs"):
        waited(house, "web-fork", seconds=0.5)


def test_whose_agent_another_command_has_is_not_lost(
    house: FakeHouse, children: list[FakeGuest]
) -> None:
    channel = house.open_channel(house.find("web-fork").uuid)
    with pytest.raises(errors.TimedOut, match="still runs"):
        waited(house, "web-fork", seconds=0.5)
    channel.close()
    children[0].end(1)
    assert [each.returncode for each in waited(house, "web-fork")] == [1]


def test_an_end_that_the_agent_cannot_explain_is_not_given_a_status(
    house: FakeHouse, children: list[FakeGuest]
) -> None:
    children[0].end(None)
    (ending,) = waited(house, "web-fork")
    assert isinstance(ending.error, errors.Lost)
    assert "does not know how" in ending.error.message


def test_an_agent_that_was_started_again_knows_nothing(house: FakeHouse, parent: FakeGuest) -> None:
    parent.agent = Agent(house.measured, InstanceKey(), parent, parent, parent.engine, parent)
    (ending,) = waited(house, "web")
    assert isinstance(ending.error, errors.Lost)
    assert "started again" in ending.error.message


def test_a_vm_that_is_no_vm_yet_is_not_waited_for(house: FakeHouse, parent: FakeGuest) -> None:
    uuid = house.find("web").uuid
    metadata = metadata_xml.from_domain(house.xml(uuid))
    assert metadata is not None
    house.set_metadata(uuid, metadata_xml.write(replace(metadata, phase=Phase.FORMING)))
    with pytest.raises(errors.WrongState, match="forming"):
        waited(house, "web")


def test_a_foreign_vm_and_none_at_all(house: FakeHouse, parent: FakeGuest) -> None:
    house.add_foreign("theirs")
    for name in ("theirs", "nonsuch"):
        with pytest.raises(errors.WrongState):
            waited(house, name)
