"""Events of children, relayed to their parent by a host, honest or not, with real agents."""

from __future__ import annotations

import json

import pytest

from sevfork import errors
from sevfork.domain.xml import spec_from_xml
from sevfork.host.hypervisor import DomainState
from sevfork.lifecycle import listen
from sevfork.lifecycle import wait as waiting
from sevfork.lifecycle.fork import ForkRequest, plan_fork, run_fork
from sevfork.lifecycle.relay import Event, Relay, place_of, read_chronicle
from sevfork.lifecycle.remove import plan_remove, remove
from sevfork.lifecycle.wait import wait_for
from sevfork.wire import protocol
from sevfork.wire.protocol import Entry, Happened, Life, LifeEvent, WorkloadPhase
from tests.support.fake_guests import FakeGuest, FakeHouse
from tests.support.jobs import job_on

NAMES = ("web-fork", "web-fork1")
BEGUN = [(name, event) for name in NAMES for event in (LifeEvent.RESTORED, LifeEvent.READY)]


@pytest.fixture
def children(house: FakeHouse, parent: FakeGuest) -> list[FakeGuest]:
    made = run_fork(job_on(house), plan_fork(house, ForkRequest("web", count=2)))
    return [house.guests[child.uuid] for child in made.children]


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def web(house: FakeHouse, children: list[FakeGuest], notes: list[str]) -> Relay:
    """Between the parent and its two children, its first round done."""
    spec = spec_from_xml(house.xml(house.find("web").uuid))
    relay = Relay(job_on(house), spec, 1000.0, notes.append)
    assert sorted(said(relay.round())) == sorted(BEGUN)
    return relay


def said(events: list[Event]) -> list[tuple[str | None, LifeEvent]]:
    return [(event.name, event.entry.event) for event in events]


def ask(guest: FakeGuest, request: protocol.Request) -> protocol.Reply:
    return guest.agent.handle(request, lambda *_: None)


def life(guest: FakeGuest) -> Life:
    told = ask(guest, protocol.Events())
    assert isinstance(told, Life)
    return told


def place(house: FakeHouse, name: str) -> tuple[bytes, int]:
    fork_id, index = place_of(house.find(name))
    return bytes.fromhex(fork_id), index


def file_of(guest: FakeGuest) -> list[dict[str, object]]:
    return [json.loads(line) for line in guest.children_file.splitlines()]


def test_an_exit_is_brought_to_the_parent_once(
    house: FakeHouse, parent: FakeGuest, children: list[FakeGuest], web: Relay
) -> None:
    assert web.round() == []
    children[1].end(3)
    (event,) = web.round()
    assert (event.name, event.entry.event, event.entry.returncode) == (
        "web-fork1",
        LifeEvent.EXITED,
        3,
    )
    assert web.round() == []
    assert not house.busy, "a channel was left open"
    lines = file_of(parent)
    assert [line["event"] for line in lines].count("exited") == 1
    assert (lines[-1]["status"], lines[-1]["signal"]) == (3, None)
    assert bytes.fromhex(str(lines[-1]["child"])) == event.entry.child != b""


def test_a_relay_that_begins_anew_tells_the_parent_nothing_twice(
    house: FakeHouse, parent: FakeGuest, children: list[FakeGuest], web: Relay, notes: list[str]
) -> None:
    children[0].end(0)
    web.round()
    another = Relay(web.job, web.parent, 1000.0, notes.append)
    assert len(another.round()) == 5, "what the parent has noted is shown again"
    assert len(file_of(parent)) == 5
    assert notes == []


def test_a_child_that_was_removed_is_lost_and_told_once(
    house: FakeHouse, parent: FakeGuest, web: Relay
) -> None:
    remove(house, plan_remove(house, ["web-fork"]))
    assert said(web.round()) == [(None, LifeEvent.LOST)]
    assert web.round() == []


@pytest.mark.parametrize("state", [DomainState.SHUT_OFF, DomainState.CRASHED])
def test_a_child_that_runs_no_more_is_lost(
    house: FakeHouse, children: list[FakeGuest], web: Relay, state: DomainState
) -> None:
    uuid = house.find("web-fork").uuid
    house.defined[uuid] = (house.defined[uuid][0], state)
    assert said(web.round()) == [("web-fork", LifeEvent.LOST)]


def test_who_has_exited_before_is_not_lost(
    house: FakeHouse, children: list[FakeGuest], web: Relay
) -> None:
    children[0].end(0)
    web.round()
    remove(house, plan_remove(house, ["web-fork"]))
    assert web.round() == []


def test_a_paused_child_is_not_lost(
    house: FakeHouse, children: list[FakeGuest], web: Relay
) -> None:
    uuid = house.find("web-fork").uuid
    house.defined[uuid] = (house.defined[uuid][0], DomainState.PAUSED)
    web.lost_after_s = 0.0
    assert web.round() == []


def test_a_silent_child_is_lost_until_it_is_heard_again(
    children: list[FakeGuest], web: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = listen.life_of

    def silent(*_: object) -> None:
        raise errors.TimedOut("no agent answered in the VM")

    monkeypatch.setattr(listen, "life_of", silent)
    assert web.round() == [], "not at once"
    hasty = Relay(web.job, web.parent, 0.0, print, after=web.after)
    assert sorted(said(hasty.round())) == [(name, LifeEvent.LOST) for name in NAMES]
    assert hasty.round() == []
    web.after = hasty.after
    monkeypatch.setattr(listen, "life_of", heard)
    children[0].end(0)
    assert said(web.round()) == [("web-fork", LifeEvent.EXITED)], "it was a hint"


def test_a_host_that_calls_a_child_lost_keeps_it_from_nothing(
    house: FakeHouse, parent: FakeGuest, children: list[FakeGuest], web: Relay
) -> None:
    fork_id, index = place(house, "web-fork")
    for _ in range(100):
        ask(parent, protocol.ReportLost(fork_id, index))
    children[0].end(0)
    assert said(web.round()) == [
        ("web-fork", LifeEvent.LOST),
        ("web-fork", LifeEvent.EXITED),
    ]


def test_a_host_cannot_pass_one_childs_exit_off_as_anothers(
    house: FakeHouse, parent: FakeGuest, children: list[FakeGuest], web: Relay
) -> None:
    children[0].end(0)
    exited = life(children[0]).events[2].sealed
    with pytest.raises(errors.NotAuthentic):
        ask(parent, protocol.RelayEvent(*place(house, "web-fork1"), exited))
    assert said(web.round()) == [("web-fork", LifeEvent.EXITED)]


def test_a_host_that_relays_an_event_again_changes_nothing(
    house: FakeHouse, parent: FakeGuest, children: list[FakeGuest], web: Relay
) -> None:
    children[0].end(0)
    web.round()
    exited = life(children[0]).events[2].sealed
    with pytest.raises(errors.NotAuthentic):
        ask(parent, protocol.RelayEvent(*place(house, "web-fork"), exited))
    assert web.round() == []


def test_a_child_that_talks_nonsense_does_not_keep_its_sibling_from_being_heard(
    children: list[FakeGuest], web: Relay, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = listen.life_of

    def first_is_hostile(job: object, spec: object) -> Life | None:
        true = heard(job, spec)  # type: ignore[arg-type]
        if getattr(spec, "name", "") != "web-fork" or true is None:
            return true
        return Life(WorkloadPhase.READY, [*true.events[:2], Happened(LifeEvent.EXITED, 0, b"x")])

    monkeypatch.setattr(listen, "life_of", first_is_hostile)
    children[1].end(1)
    assert said(web.round()) == [("web-fork1", LifeEvent.EXITED)]
    web.round()
    assert len(notes) == 1, "it is said once, not in every round"


@pytest.mark.parametrize(
    "error",
    [
        errors.NotAuthentic("the agent answered with another kind of message"),
        errors.HostCannot("as the guest says"),
        errors.WrongState("as the guest says"),
        errors.SevforkError("as the guest says"),
    ],
)
def test_a_child_that_answers_with_errors_does_not_end_the_relay(
    children: list[FakeGuest],
    web: Relay,
    error: errors.SevforkError,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(children[0].agent, "handle", refuse)
    children[1].end(1)
    assert said(web.round()) == [("web-fork1", LifeEvent.EXITED)]
    hasty = Relay(web.job, web.parent, 0.0, print, after=web.after)
    assert said(hasty.round()) == [("web-fork", LifeEvent.LOST)]


def test_a_hypervisor_that_is_gone_ends_the_relay(
    web: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise errors.HypervisorUnreachable("gone")

    monkeypatch.setattr(listen, "life_of", unreachable)
    with pytest.raises(errors.HypervisorUnreachable):
        web.round()


def test_places_that_nobody_has_are_refused(parent: FakeGuest) -> None:
    for request in (
        protocol.ReportLost(bytes(16), 0),
        protocol.RelayEvent(bytes(16), 0, b""),
    ):
        with pytest.raises(errors.RefusedByGuest):
            ask(parent, request)


def test_a_parent_whose_chronicle_never_ends_is_not_read_for_ever() -> None:
    class Endless:
        asked = 0

        def ask(self, *_: object) -> protocol.Chronicle:
            self.asked += 1
            entry = Entry(1, 0, b"", bytes(16), 0, LifeEvent.LOST)
            return protocol.Chronicle([entry] * 256)

    endless = Endless()
    assert len(list(read_chronicle(endless, 0))) < 10000  # type: ignore[arg-type]
    assert endless.asked < 20


def test_a_fork_by_another_command_is_waited_for(house: FakeHouse, web: Relay) -> None:
    channel = house.open_channel(house.find("web").uuid)
    web.job = job_on(house, seconds=0.5)
    with pytest.raises(errors.TimedOut, match="another command"):
        web.round()
    channel.close()


def test_waiting_for_a_child_tells_its_parent(
    house: FakeHouse, parent: FakeGuest, children: list[FakeGuest]
) -> None:
    children[0].end(9)
    notes: list[str] = []
    wait_for(job_on(house), ["web-fork"], any_of_them=False, lost_after_s=9.0, note=notes.append)
    assert [line["status"] for line in file_of(parent) if line["event"] == "exited"] == [9]
    assert notes == []


def test_waiting_for_a_child_whose_parent_is_gone_or_busy_is_no_error(
    house: FakeHouse,
    parent: FakeGuest,
    children: list[FakeGuest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "_TELL_S", 0.1)
    for guest in children:
        guest.end(9)
    notes: list[str] = []

    def wait(name: str) -> int:
        endings = wait_for(
            job_on(house), [name], any_of_them=False, lost_after_s=9.0, note=notes.append
        )
        return endings[0].exit_code

    channel = house.open_channel(house.find("web").uuid)
    assert wait("web-fork") == 9
    assert notes[0].startswith("'web' was not told of its children")
    channel.close()
    remove(house, plan_remove(house, ["web"]))
    assert wait("web-fork1") == 9
    assert len(notes) == 1
