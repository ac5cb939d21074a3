"""Children that are removed say so to their parents, and are removed whatever comes of it."""

from __future__ import annotations

import json

import pytest

from sevfork import errors
from sevfork.agent.serve import VmEnds
from sevfork.cli import main as command
from sevfork.cli.options import App
from sevfork.host import connection_choice
from sevfork.host.hypervisor import DomainState
from sevfork.lifecycle import farewell
from sevfork.lifecycle.farewell import take_leave
from sevfork.lifecycle.fork import ForkRequest, plan_fork, run_fork
from sevfork.lifecycle.remove import plan_remove
from sevfork.wire import protocol
from sevfork.wire.protocol import LifeEvent
from tests.support.fake_guests import FakeGuest, FakeHouse
from tests.support.jobs import job_on


@pytest.fixture(autouse=True)
def _connected(monkeypatch: pytest.MonkeyPatch, house: FakeHouse) -> None:
    monkeypatch.setattr(command, "handle_signals", lambda _app: None)
    monkeypatch.setattr(connection_choice, "connect", lambda _uri, _note: house)
    monkeypatch.setattr(farewell, "_LAST_WORD_S", 0.2)


@pytest.fixture
def children(house: FakeHouse, parent: FakeGuest) -> list[FakeGuest]:
    made = run_fork(job_on(house), plan_fork(house, ForkRequest("web", count=2)))
    return [house.guests[child.uuid] for child in made.children]


def rm(*names: str) -> int:
    return command.run(App(), ["rm", *names])


def last(parent: FakeGuest) -> list[str]:
    """What the parent was told after both children were ready."""
    lines = [json.loads(line) for line in parent.children_file.splitlines()]
    return [line["event"] for line in lines[4:]]


def test_a_child_that_is_removed_is_shut_down_and_not_lost(
    house: FakeHouse, parent: FakeGuest, children: list[FakeGuest]
) -> None:
    assert rm("web-fork") == 0
    assert last(parent) == ["shutting down"]
    assert command.run(App(), ["events", "web"]) == 0
    assert last(parent) == ["shutting down"]
    assert sorted(domain.name for domain in house.domains()) == ["web", "web-fork1"]
    assert not house.busy, "a channel was left open"


def test_what_it_had_not_said_yet_comes_first(parent: FakeGuest, children: list[FakeGuest]) -> None:
    children[0].end(3)
    assert rm("web-fork") == 0
    assert last(parent) == ["exited", "shutting down"]


def test_a_whole_family_has_nobody_to_be_told(
    house: FakeHouse, parent: FakeGuest, children: list[FakeGuest]
) -> None:
    assert rm("web-fork", "web", "web-fork1") == 0
    assert not house.domains()
    assert not any(isinstance(each, protocol.ShutDown) for each in house.heard)


@pytest.mark.parametrize("busy", ["web", "web-fork"])
def test_whoever_is_busy_keeps_nobody_from_being_removed(
    house: FakeHouse,
    parent: FakeGuest,
    children: list[FakeGuest],
    busy: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sevfork.cli.rm._FAREWELL_S", 0.3)
    channel = house.open_channel(house.find(busy).uuid)
    assert rm("web-fork") == 0
    channel.close()
    assert sorted(domain.name for domain in house.domains()) == ["web", "web-fork1"]
    told = "was not told" in capsys.readouterr().err
    assert (told, last(parent)) == ((True, []) if busy == "web" else (False, ["lost"]))


@pytest.mark.parametrize("state", [DomainState.PAUSED, DomainState.SHUT_OFF])
def test_a_child_that_cannot_speak_is_removed_at_once(
    house: FakeHouse, parent: FakeGuest, children: list[FakeGuest], state: DomainState
) -> None:
    uuid = house.find("web-fork").uuid
    house.defined[uuid] = (house.defined[uuid][0], state)
    assert rm("web-fork") == 0
    assert not any(isinstance(each, protocol.ShutDown) for each in house.heard)


def test_a_parent_that_answers_nonsense_keeps_nobody_from_being_removed(
    house: FakeHouse,
    parent: FakeGuest,
    children: list[FakeGuest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nonsense(*_: object) -> None:
        raise errors.NotAuthentic("the channel carried a message that is not of the protocol")

    monkeypatch.setattr(parent.agent, "handle", nonsense)
    notes: list[str] = []
    take_leave(job_on(house), plan_remove(house, ["web-fork"]), notes.append)
    assert len(notes) == 1


def test_who_says_that_it_shuts_down_does(children: list[FakeGuest]) -> None:
    """The agent does not take the host's word for what the host does next."""
    with pytest.raises(VmEnds) as ending:
        children[0].agent.handle(protocol.ShutDown(), lambda *_: None)
    assert isinstance(ending.value.reply, protocol.Life)
    assert ending.value.reply.events[-1].event is LifeEvent.ENDING
