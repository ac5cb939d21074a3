"""Snapshots, pools and warm forks, with the real agent on both sides, on a hypervisor in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from sevfork import errors
from sevfork.deadline import Deadline
from sevfork.domain import metadata_xml
from sevfork.domain.disks import disks
from sevfork.domain.metadata import Metadata, Phase
from sevfork.domain.spec import GuestSpec
from sevfork.domain.xml import spec_from_xml
from sevfork.handshake.audit import verified
from sevfork.handshake.audit_entries import (
    ChainKind,
    ChildActivated,
    KeysGranted,
    StateCaptured,
)
from sevfork.host import maker
from sevfork.host.hypervisor import DomainState
from sevfork.lifecycle.fork import ForkOutcome, ForkRequest, plan_fork, run_fork
from sevfork.lifecycle.reap import reap
from sevfork.lifecycle.relay import Relay
from sevfork.lifecycle.remove import plan_remove, remove
from sevfork.lifecycle.snapshot.update import drop_snapshot, update_snapshot
from sevfork.lifecycle.snapshot.volume import plug_new
from sevfork.lifecycle.warm.find import warm_children
from sevfork.lifecycle.warm.pool import Pool, PoolRequest
from sevfork.wire import protocol
from tests.support.fake_guests import STATE, FakeGuest, FakeHouse
from tests.support.jobs import job_on

MORE = b"written since"


class Stop(Exception):
    """What ends a pool in these tests, as a signal does."""


def spec_of(house: FakeHouse, name: str = "web") -> GuestSpec:
    return spec_from_xml(house.xml(house.find(name).uuid))


def metadata_of(house: FakeHouse, name: str) -> Metadata:
    found = metadata_xml.from_domain(house.xml(house.find(name).uuid))
    assert found is not None
    return found


def forked(house: FakeHouse, **wishes: object) -> ForkOutcome:
    request = replace(ForkRequest("web"), **wishes)  # type: ignore[arg-type]
    return run_fork(job_on(house), plan_fork(house, request))


def pool_of(house: FakeHouse, size: int, notes: list[str] | None = None) -> Pool:
    request = PoolRequest("web", size, every_s=1000.0, max_lag_s=5000.0)
    heard = notes if notes is not None else []
    return Pool(house, request, heard.append, lambda: heard.append("full"))


def filled(house: FakeHouse, size: int, then: Callable[[], object] = lambda: None) -> list[str]:
    """Run a pool until it is full, do something while it is, and let it be stopped."""
    notes: list[str] = []

    def wait(_seconds: float) -> None:
        if "full" in notes:
            then()
            raise Stop

    with pytest.raises(Stop):
        pool_of(house, size, notes).keep(wait)
    return notes


@pytest.fixture
def warm(house: FakeHouse, parent: FakeGuest) -> FakeGuest:
    """The parent, while two warm children wait."""
    pool = pool_of(house, 2)
    while pool._step() == 0.0:  # noqa: SLF001 - one look at a time
        pass
    return parent


def heard(house: FakeHouse, kind: type[protocol.Message]) -> int:
    return sum(isinstance(request, kind) for request in house.heard)


def test_a_snapshot_is_begun_and_then_brought_up_to_date(
    house: FakeHouse, parent: FakeGuest
) -> None:
    begun = update_snapshot(job_on(house), spec_of(house)).made
    parent.state = STATE + MORE
    updated = update_snapshot(job_on(house), spec_of(house)).made
    assert (begun.layers, updated.layers, updated.begun_anew) == (1, 2, "")
    assert begun.begun_anew
    assert updated.state_bytes < 100 < begun.state_bytes


def test_a_fork_takes_only_what_was_written_since(house: FakeHouse, parent: FakeGuest) -> None:
    update_snapshot(job_on(house), spec_of(house))
    parent.state = STATE + MORE
    outcome = forked(house)
    assert outcome.state_bytes < 100
    child = house.guests[outcome.children[0].uuid]
    assert (child.state, child.generation) == (STATE + MORE, 1)
    assert not outcome.children[0].warm


def test_a_snapshots_volume_is_gone_when_it_is_dropped(house: FakeHouse, parent: FakeGuest) -> None:
    update_snapshot(job_on(house), spec_of(house))
    assert drop_snapshot(job_on(house), spec_of(house))
    assert not [name for name in house.storage.files if name.endswith(".snapshot")]
    assert metadata_of(house, "web").snapshot is None
    assert len(disks(house.xml(spec_of(house).uuid))) == 1
    assert forked(house).children[0].error is None


def test_removing_the_parent_takes_its_snapshot_along(house: FakeHouse, parent: FakeGuest) -> None:
    update_snapshot(job_on(house), spec_of(house))
    remove(house, plan_remove(house, ["web"]))
    assert not [name for name in house.storage.files if name.endswith(".snapshot")]


def test_a_volume_that_cannot_be_plugged_in_leaves_nothing(
    house: FakeHouse, parent: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(uuid: str, xml: str) -> None:
        raise errors.HostCannot("no free port")

    monkeypatch.setattr(house, "attach_device", refuse)
    with pytest.raises(errors.HostCannot):
        update_snapshot(job_on(house), spec_of(house))
    assert not [name for name in house.storage.files if name.endswith(".snapshot")]
    assert metadata_of(house, "web").snapshot is None


def test_a_capture_elsewhere_begins_the_snapshot_anew_and_says_so(
    house: FakeHouse, parent: FakeGuest
) -> None:
    update_snapshot(job_on(house), spec_of(house))
    parent.engine.forget()  # as a capture that is no part of the snapshot makes it
    again = update_snapshot(job_on(house), spec_of(house)).made
    assert (again.layers, again.state_bytes) == (1, len(STATE))
    assert "no earlier capture" in again.begun_anew


def test_a_full_volume_is_followed_by_another(
    house: FakeHouse, parent: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = update_snapshot(job_on(house), spec_of(house)).plugged
    monkeypatch.setattr("sevfork.agent.captures._free_bytes", lambda *_: 1)
    second = update_snapshot(job_on(house), spec_of(house)).plugged
    assert first.serial != second.serial
    assert [name for name in house.storage.files if name.endswith(".snapshot")] == [
        second.volume.name
    ]


class Killed(BaseException):
    """What no code of ours gets to see the end of."""


@pytest.mark.parametrize("deed", ["create", "attach_device", "detach_disk", "delete"])
def test_one_killed_between_two_volumes_is_tidied_up_after(
    house: FakeHouse, parent: FakeGuest, deed: str
) -> None:
    """Killed as it was about to do this, with nothing undone."""
    update_snapshot(job_on(house), spec_of(house))

    def die(*_args: object, **_options: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(house.storage if hasattr(house.storage, deed) else house, deed, die)
        patch.setattr("sevfork.lifecycle.snapshot.volume.Undo.on_failure", lambda *_: None)
        with pytest.raises(Killed):
            plug_new(house, spec_of(house))
    after = update_snapshot(job_on(house), spec_of(house))
    assert after.made.begun_anew
    assert len(after.notes) == 1, "one of the two was not in use"
    snapshots = [name for name in house.storage.files if name.endswith(".snapshot")]
    assert snapshots == [after.plugged.volume.name]
    assert len(disks(house.xml(spec_of(house).uuid))) == 2
    assert drop_snapshot(job_on(house), spec_of(house))
    assert len(disks(house.xml(spec_of(house).uuid))) == 1
    assert not metadata_of(house, "web").snapshot


def test_a_pool_fills_says_so_and_leaves_nothing(house: FakeHouse, parent: FakeGuest) -> None:
    seen: list[Phase] = []
    filled(
        house,
        2,
        lambda: seen.extend(metadata_of(house, n).phase for n in ("web-fork", "web-fork1")),
    )
    assert seen == [Phase.WARM, Phase.WARM]
    assert [domain.name for domain in house.domains()] == ["web"]
    assert not house.busy


def test_a_warm_child_runs_nothing_and_has_no_network(house: FakeHouse, warm: FakeGuest) -> None:
    for child in warm_children(house, spec_of(house).uuid):
        guest = house.guests[child.domain.uuid]
        assert (guest.is_running, guest.network_up, guest.unpacked) == (False, False, STATE)


def test_a_fork_takes_warm_children_first(house: FakeHouse, warm: FakeGuest) -> None:
    warm.state = STATE + MORE
    house.heard.clear()
    outcome = forked(house, count=3)
    assert [(child.name, child.warm) for child in outcome.children] == [
        ("web-fork", True),
        ("web-fork1", True),
        ("web-fork2", False),
    ]
    for child in outcome.children:
        assert child.error is None
        guest = house.guests[child.uuid]
        assert (guest.state, guest.generation, guest.network_up) == (STATE + MORE, 1, True)
        metadata = metadata_of(house, child.name)
        assert (metadata.phase, metadata.maker, metadata.warmth) == (Phase.READY, None, None)
        assert metadata.fork_id == outcome.fork_id
        assert len(disks(house.xml(child.uuid))) == 1, "the snapshot's volume is still plugged in"
    assert sorted(metadata_of(house, child.name).index or 0 for child in outcome.children) == [
        0,
        1,
        2,
    ]
    assert heard(house, protocol.Capture) == 1
    assert not house.busy


def test_cold_takes_none(house: FakeHouse, warm: FakeGuest) -> None:
    outcome = forked(house, cold=True)
    assert (outcome.children[0].name, outcome.children[0].warm) == ("web-fork2", False)
    assert len(warm_children(house, spec_of(house).uuid)) == 2


def test_a_name_of_its_own_takes_none(house: FakeHouse, warm: FakeGuest) -> None:
    outcome = forked(house, name="copy")
    assert (outcome.children[0].name, outcome.children[0].warm) == ("copy", False)


def test_a_warm_child_of_a_warm_child(house: FakeHouse, warm: FakeGuest) -> None:
    first = forked(house).children[0]
    outcome = run_fork(job_on(house), plan_fork(house, ForkRequest(first.name)))
    assert house.guests[outcome.children[0].uuid].generation == 2


def test_a_stale_warm_child_is_not_used(
    house: FakeHouse, warm: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = time.time() + 6000
    monkeypatch.setattr("sevfork.lifecycle.warm.find.time.time", lambda: later)
    assert not forked(house).children[0].warm


def test_one_that_another_command_talks_to_is_left_to_it(
    house: FakeHouse, warm: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sevfork.lifecycle.fork.warm._BUSY_S", 0.05)
    first = warm_children(house, spec_of(house).uuid)[0]
    house.busy.add(first.domain.uuid)
    child = forked(house).children[0]
    assert (child.name, child.warm) == ("web-fork1", True)


def test_a_capture_that_is_refused_gives_warm_children_back(
    house: FakeHouse, warm: FakeGuest
) -> None:
    warm.refuses_capture = "not now"
    with pytest.raises(errors.RefusedByGuest):
        forked(house)
    children = warm_children(house, spec_of(house).uuid)
    assert len(children) == 2
    assert all(child.metadata.maker == maker.this_process() for child in children)
    assert not house.busy


def test_a_restore_that_fails_costs_that_warm_child_only(house: FakeHouse, warm: FakeGuest) -> None:
    first, _second = warm_children(house, spec_of(house).uuid)

    def fail() -> None:
        raise errors.RefusedByGuest("the hook failed")

    house.guests[first.domain.uuid].on_resume = fail
    outcome = forked(house, count=2)
    assert [child.error is None for child in outcome.children] == [False, True]
    assert sorted(domain.name for domain in house.domains()) == ["web", "web-fork1"]
    assert warm.state == STATE


def test_a_pool_brings_its_children_along(house: FakeHouse, parent: FakeGuest) -> None:
    pool = pool_of(house, 1)
    while pool._step() == 0.0:  # noqa: SLF001
        pass
    parent.state = STATE + MORE
    pool._update(spec_of(house))  # noqa: SLF001
    (child,) = warm_children(house, spec_of(house).uuid)
    assert house.guests[child.domain.uuid].unpacked == STATE + MORE


def test_a_snapshot_begun_anew_reaches_warm_children(house: FakeHouse, parent: FakeGuest) -> None:
    pool = pool_of(house, 1)
    while pool._step() == 0.0:  # noqa: SLF001
        pass
    parent.engine.forget()
    parent.state = os.urandom(2**20)
    pool._update(spec_of(house))  # noqa: SLF001
    (child,) = warm_children(house, spec_of(house).uuid)
    assert house.guests[child.domain.uuid].unpacked == parent.state
    assert forked(house).children[0].warm


def test_a_warm_child_that_has_ended_is_replaced(house: FakeHouse, parent: FakeGuest) -> None:
    notes: list[str] = []
    pool = pool_of(house, 1, notes)
    while pool._step() == 0.0:  # noqa: SLF001
        pass
    (child,) = warm_children(house, spec_of(house).uuid)
    house.end(child.domain.uuid)
    while pool._step() == 0.0:  # noqa: SLF001
        pass
    assert len(warm_children(house, spec_of(house).uuid)) == 1


def test_a_pool_whose_parent_has_ended_ends(house: FakeHouse, parent: FakeGuest) -> None:
    notes: list[str] = []
    pool = pool_of(house, 1, notes)

    def wait(_seconds: float) -> None:
        if "full" in notes:
            house.end(house.find("web").uuid)

    pool.keep(wait)
    assert "has ended" in notes[-1]
    assert [domain.name for domain in house.domains()] == ["web"]


def test_a_pool_whose_parent_is_paused_waits_for_it(house: FakeHouse, parent: FakeGuest) -> None:
    notes: list[str] = []
    house.pause(house.find("web").uuid)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            house.pause(house.find("web").uuid, DomainState.RUNNING)
        if "full" in notes:
            raise Stop

    with pytest.raises(Stop):
        pool_of(house, 1, notes).keep(wait)
    assert waits[:3] == [5.0, 10.0, 20.0]
    assert [note for note in notes if "is paused" in note] == notes[:1]


def test_a_pool_that_cannot_launch_goes_on_with_updates(
    house: FakeHouse, parent: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a token that is used up: told once, tried later each time."""
    attempts: list[int] = []

    def refuse(*_: object) -> None:
        attempts.append(heard(house, protocol.UpdateSnapshot))
        raise errors.RefusedByGuest("the token is used up")

    monkeypatch.setattr("sevfork.lifecycle.warm.pool.make_warm", refuse)
    notes: list[str] = []
    pool = pool_of(house, 1, notes)
    for _ in range(5):
        assert pool._step() > 0.0  # noqa: SLF001
        pool._due = Deadline.after(0)  # noqa: SLF001
    assert attempts == [1]
    assert heard(house, protocol.UpdateSnapshot) == 5
    assert len([note for note in notes if "used up" in note]) == 1


def test_a_pool_without_libvirt_ends(
    house: FakeHouse, parent: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise errors.HypervisorUnreachable("the connection broke")

    def wait(_seconds: float) -> None:
        monkeypatch.setattr(house, "find", gone)
        monkeypatch.setattr(house, "domains", lambda: ())

    with pytest.raises(errors.HypervisorUnreachable):
        pool_of(house, 1).keep(wait)


def test_a_look_reads_the_parents_xml_once(
    house: FakeHouse, warm: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    uuid, read, looks = spec_of(house).uuid, [], []
    pool, xml = pool_of(house, 2, notes), house.xml

    def reading(asked: str) -> str:
        read.append(asked)
        return xml(asked)

    def wait(_seconds: float) -> None:
        if "full" in notes:
            monkeypatch.setattr(house, "xml", reading)
            looks.append(read.count(uuid))
            if len(looks) == 4:
                raise Stop

    with pytest.raises(Stop):
        pool.keep(wait)
    assert looks == [0, 1, 2, 3]


def test_a_killed_pools_children_are_removed_by_the_next_command(
    house: FakeHouse, warm: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maker, "is_dead", lambda _maker: True)
    notes: list[str] = []
    assert not warm_children(house, spec_of(house).uuid), "nobody keeps them current"
    reap(house, notes.append)
    assert [domain.name for domain in house.domains()] == ["web"]
    assert len(notes) == 2


def test_events_of_a_warm_child_are_told_under_the_place_that_it_was_called_to(
    house: FakeHouse, warm: FakeGuest
) -> None:
    outcome = forked(house)
    (child,) = outcome.children
    assert child.warm
    relay = Relay(job_on(house), spec_of(house), 1000.0, print)
    events = relay.round()
    assert [event.entry.event.value for event in events] == ["restored", "ready"]
    house.guests[child.uuid].end(4)
    events += relay.round()
    assert [event.entry.returncode for event in events] == [None, None, 4]
    assert {event.entry.fork_id.hex() for event in events} == {outcome.fork_id}
    assert {event.name for event in events} == {child.name}


def test_a_warm_child_that_waits_is_nobodys_child_yet(house: FakeHouse, warm: FakeGuest) -> None:
    known = warm.agent.handle(protocol.ListFamily(), lambda *_: None)
    assert known == protocol.Family([])


def test_an_audit_record_tells_snapshots_warm_grants_and_activations(
    house: FakeHouse, warm: FakeGuest
) -> None:
    forked(house)
    nonce = os.urandom(32)
    reply = warm.agent.handle(protocol.ReadAudit(nonce), lambda *_: None)
    assert isinstance(reply, protocol.Audited)
    record = verified(reply.head, reply.entries, nonce)
    holding = [entry.deed for entry in record.of(ChainKind.GRANT)]
    (activated,) = [entry.deed for entry in record.of(ChainKind.ACTIVATION)]
    assert isinstance(activated, ChildActivated)
    held = [deed.recipient.instance_key for deed in holding if isinstance(deed, KeysGranted)]
    assert [isinstance(deed, KeysGranted) and deed.warm for deed in holding] == [True, True]
    assert activated.recipient.instance_key in held
    captures = [entry.deed for entry in record.of(ChainKind.CAPTURE)]
    last = captures[-1]
    assert isinstance(last, StateCaptured)
    assert last.fork_id == activated.recipient.fork_id
    assert last.manifest_digest == activated.recipient.manifest_digest
    assert [isinstance(deed, StateCaptured) and any(deed.fork_id) for deed in captures[:-1]] == [
        False
    ] * (len(captures) - 1)
