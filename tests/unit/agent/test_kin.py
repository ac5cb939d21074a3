"""What a parent takes for an event of its child, and what it does not, named after the attack."""

from __future__ import annotations

import hashlib

import pytest

from sevfork.agent.kin import Kin
from sevfork.errors import NotAuthentic, RefusedByGuest
from sevfork.handshake import EventKind, exit_detail
from sevfork.wire.protocol import MAX_EVENTS, LifeEvent
from tests.support.fake_family import FORK_ID, Family, Fork, flip


@pytest.fixture
def fork() -> Fork:
    return confirmed(Family())


def confirmed(family: Family) -> Fork:
    fork = family.fork()
    fork.release()
    return fork


def kin_of(fork: Fork, index: int = 0) -> Kin:
    kin = Kin(fork.parent, FORK_ID, index)
    kin.confirm(fork.child.confirm())
    return kin


def test_a_child_is_named_by_the_id_in_its_own_generation_file(fork: Fork) -> None:
    kin = kin_of(fork)
    told = kin.hear(fork.child.event(EventKind.RESTORED))
    assert told.child == fork.guest.instance.instance_id[:16]
    assert told.child == hashlib.sha384(fork.guest.instance.public).digest()[:16]
    assert (told.fork_id, told.index, told.event) == (FORK_ID, 0, LifeEvent.RESTORED)


@pytest.mark.parametrize("returncode", [0, 3, 255, -9, None])
def test_how_its_workload_ended_is_the_childs_word(fork: Fork, returncode: int | None) -> None:
    kin = kin_of(fork)
    told = kin.hear(fork.child.event(EventKind.EXITED, exit_detail(returncode)))
    assert (told.event, told.returncode, kin.over) == (LifeEvent.EXITED, returncode, True)


def test_a_replayed_event_is_refused_and_the_next_one_taken(fork: Fork) -> None:
    kin, event = kin_of(fork), fork.child.event(EventKind.RESTORED)
    kin.hear(event)
    with pytest.raises(NotAuthentic):
        kin.hear(event)
    assert kin.hear(fork.child.event(EventKind.HOOKS_PASSED)).event is LifeEvent.READY
    assert kin.heard == 2


def test_an_event_after_one_that_was_kept_back_is_refused(fork: Fork) -> None:
    kin, first = kin_of(fork), fork.child.event(EventKind.RESTORED)
    with pytest.raises(NotAuthentic):
        kin.hear(fork.child.event(EventKind.EXITED, exit_detail(0)))
    assert (kin.heard, kin.over) == (0, False)
    assert kin.hear(first).event is LifeEvent.RESTORED


def test_an_event_of_a_sibling_is_refused() -> None:
    family = Family()
    one, other = confirmed(family), confirmed(family)
    kin, sibling = kin_of(one), kin_of(other, 1)
    exited = one.child.event(EventKind.EXITED, exit_detail(0))
    with pytest.raises(NotAuthentic):
        sibling.hear(exited)
    assert not sibling.over
    assert kin.hear(exited).index == 0


def test_a_tampered_event_is_refused(fork: Fork) -> None:
    kin, event = kin_of(fork), fork.child.event(EventKind.EXITED, exit_detail(0))
    for position in range(len(event)):
        with pytest.raises(NotAuthentic):
            kin.hear(flip(event, position))
    assert kin.hear(event).returncode == 0


def test_a_child_that_talks_without_end_is_not_listened_to_without_end(fork: Fork) -> None:
    kin = kin_of(fork)
    for _ in range(MAX_EVENTS):
        kin.hear(fork.child.event(EventKind.HOOKS_PASSED))
    with pytest.raises(RefusedByGuest, match="at most 16"):
        kin.hear(fork.child.event(EventKind.HOOKS_PASSED))


@pytest.mark.parametrize("detail", [b"\1\0", b"x", b"\0" * 1024])
def test_an_exit_that_no_process_can_make_is_refused(fork: Fork, detail: bytes) -> None:
    kin = kin_of(fork)
    with pytest.raises(NotAuthentic):
        kin.hear(fork.child.event(EventKind.EXITED, detail))
    assert not kin.over


def test_a_child_cannot_say_what_is_its_parents_to_say(fork: Fork) -> None:
    with pytest.raises(NotAuthentic, match="not a child's"):
        kin_of(fork).hear(fork.child.event(EventKind.ABANDONED))


def test_lost_is_told_once_and_ends_with_the_next_word(fork: Fork) -> None:
    kin = kin_of(fork)
    first = kin.lose()
    assert first is not None
    assert first.event is LifeEvent.LOST
    assert kin.lose() is None
    kin.hear(fork.child.event(EventKind.RESTORED))
    assert kin.lose() is not None


def test_who_has_exited_or_never_was_is_not_lost(fork: Fork) -> None:
    assert Kin(fork.parent, FORK_ID, 0).lose() is None
    kin = kin_of(fork)
    kin.hear(fork.child.event(EventKind.EXITED, exit_detail(1)))
    assert kin.lose() is None
