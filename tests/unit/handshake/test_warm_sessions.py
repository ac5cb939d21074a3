"""The life of a warm child, as it should go."""

from __future__ import annotations

import weakref

import pytest

from sevfork.errors import RefusedByGuest, WrongState
from sevfork.handshake import (
    EventKind,
    EventReceived,
    HoldState,
    NeedEvidence,
    ReleaseState,
    Send,
    Slot,
)
from tests.support.fake_family import MANIFEST, WARM_LIFETIME_S, Family, Fork, inside, only
from tests.support.fake_warm import CURRENT, PLACE, UPDATED, WarmFork, extended


@pytest.fixture
def warm(family: Family) -> WarmFork:
    return WarmFork.holding(family)


def test_a_warm_child_holds_what_was_offered_and_is_no_child_yet(family: Family) -> None:
    fork = WarmFork.of(family)
    assert fork.hold() == HoldState(MANIFEST)
    assert not fork.parent.holds
    assert fork.confirm().instance_key == fork.guest.instance.public
    assert fork.parent.holds


def test_updates_bring_the_whole_chain_in_order(warm: WarmFork) -> None:
    assert warm.update(UPDATED).manifest == UPDATED
    assert warm.update(CURRENT).manifest == CURRENT


def test_a_warm_child_is_activated_with_the_last_chain_in_its_place(warm: WarmFork) -> None:
    warm.update()
    released = warm.release()
    assert released.manifest == CURRENT
    assert released.generation == PLACE.generation
    assert released.lineage.keys == (warm.root.instance.public, warm.guest.instance.public)
    certificate = released.lineage.certificates[-1]
    assert Slot(*(certificate.fork_id, certificate.child_index, certificate.generation)) == PLACE
    assert warm.confirm().instance_key == warm.guest.instance.public
    assert not warm.parent.holds


def test_a_warm_child_that_missed_every_update_is_activated_all_the_same(warm: WarmFork) -> None:
    warm.parent.update(UPDATED, 2.0)
    assert warm.release().manifest == CURRENT


def test_an_activated_child_can_be_forked_in_its_turn(owned: Family) -> None:
    warm = WarmFork.holding(owned)
    lineage = warm.release().lineage
    second = owned.fork(warm.guest, lineage)
    assert second.release().generation == 2


def test_events_go_on_in_both_directions_while_warm_and_begin_anew_when_activated(
    warm: WarmFork,
) -> None:
    for step in range(2):
        for sequence in range(2):
            event = only(
                warm.parent.receive_event(warm.child.event(EventKind.FAILED)), EventReceived
            )
            back = only(
                warm.child.receive_event(warm.parent.event(EventKind.EXITED)), EventReceived
            )
            assert (event.sequence, back.sequence) == (sequence, sequence)
        if step == 0:
            warm.activated()


def test_the_same_call_brings_the_same_answer(warm: WarmFork) -> None:
    call = warm.call()
    assert warm.child.receive_call(call) == warm.child.receive_call(call)
    answer = warm.answer(call)
    assert only(warm.child.receive_call(call), Send).message == answer


def test_the_same_answer_brings_the_same_activate(warm: WarmFork) -> None:
    answer = warm.answer()
    activate = warm.activate(answer)
    assert warm.activate(answer, now=5.0) == activate


def test_a_call_that_was_withdrawn_leaves_a_child_that_can_be_called_again(warm: WarmFork) -> None:
    late = warm.answer()
    warm.parent.withdraw()
    assert warm.parent.holds
    with pytest.raises(RefusedByGuest, match="no CALL is open"):
        warm.parent.receive_answer(late, 4.0)
    newest = extended(CURRENT, b"3")
    answer = warm.answer(warm.call(Slot(b"g" * 16, 0, 1), newest, now=5.0))
    activate = warm.activate(answer, now=6.0)
    assert only(warm.child.receive_activate(activate), ReleaseState).manifest == newest


def test_withdraw_does_nothing_where_no_call_is_open(warm: WarmFork) -> None:
    warm.parent.withdraw()
    assert warm.update().manifest == UPDATED
    warm.release()
    warm.parent.withdraw()
    warm.confirm()


def test_a_new_call_takes_the_place_of_one_that_has_no_answer(warm: WarmFork) -> None:
    warm.child.receive_call(warm.call())
    other = Slot(b"g" * 16, 0, 7)
    answer = warm.answer(warm.call(other))
    released = only(warm.child.receive_activate(warm.activate(answer)), ReleaseState)
    assert released.generation == 7


def test_a_cold_child_is_not_warm(fork: Fork) -> None:
    fork.release()
    fork.confirm()
    assert not fork.parent.holds
    with pytest.raises(WrongState):
        fork.parent.update(UPDATED, 2.0)
    with pytest.raises(WrongState):
        fork.parent.call(PLACE, CURRENT, 2.0)


def test_the_old_keys_are_gone_when_a_child_is_activated(warm: WarmFork) -> None:
    kept = [weakref.ref(inside(warm.parent).child), weakref.ref(inside(warm.child).held)]
    answer = warm.answer()
    kept += [weakref.ref(inside(warm.parent).keys)]
    activate = warm.activate(answer)
    warm.child.receive_activate(activate)
    assert [reference() for reference in kept] == [None, None, None]


def test_no_secret_of_a_warm_child_is_shown_by_repr(warm: WarmFork) -> None:
    shown = [repr((inside(warm.parent), inside(warm.child)))]
    secrets = [inside(warm.child).held.keys.resume]
    answer = warm.answer()
    secrets += [inside(warm.child).ecdh, *(layer.image_key for layer in CURRENT.layers)]
    shown.append(repr((inside(warm.parent), inside(warm.child))))
    activate = warm.activate(answer)
    shown.append(repr((inside(warm.parent), warm.child.receive_activate(activate))))
    for secret in secrets:
        assert repr(secret) not in "".join(shown)
        assert secret.hex() not in "".join(shown)


@pytest.mark.parametrize("step", ["holding", "called", "withdrawn"])
def test_a_warm_child_that_has_become_too_old_is_let_go(warm: WarmFork, step: str) -> None:
    if step != "holding":
        warm.answer(warm.call(now=WARM_LIFETIME_S - 1.0))
    if step == "withdrawn":
        warm.parent.withdraw()
    state = weakref.ref(inside(warm.parent))
    assert not warm.parent.expire(WARM_LIFETIME_S - 0.1)
    for act in (warm.parent.update, lambda *rest: warm.parent.call(PLACE, *rest)):
        with pytest.raises(RefusedByGuest, match="offer: the warm child has become too old"):
            act(UPDATED, WARM_LIFETIME_S)
    assert state() is None
    assert not warm.parent.holds
    with pytest.raises(WrongState):
        warm.parent.event(EventKind.EXITED)


def test_a_call_whose_time_is_over_is_withdrawn(warm: WarmFork) -> None:
    answer = warm.answer(warm.call(now=1000.0))
    keys = weakref.ref(inside(warm.parent).keys)
    assert not warm.parent.expire(1599.9)
    assert keys() is not None
    assert not warm.parent.expire(1600.0)
    assert keys() is None
    with pytest.raises(RefusedByGuest, match="no CALL is open"):
        warm.parent.receive_answer(answer, 1600.0)
    assert warm.parent.holds


def test_an_activate_is_not_sent_again_when_the_calls_time_is_over(warm: WarmFork) -> None:
    answer = warm.answer(warm.call(now=1000.0))
    activate = warm.activate(answer, now=1599.9)
    with pytest.raises(RefusedByGuest, match="sent again is over"):
        warm.parent.receive_answer(answer, 1600.0)
    warm.child.receive_activate(activate)
    warm.confirm()


def test_an_activate_that_is_not_confirmed_in_the_image_keys_time_is_erased(
    warm: WarmFork,
) -> None:
    answer = warm.answer(warm.call(now=1000.0))
    warm.child.receive_activate(warm.activate(answer, now=1001.0))
    assert not warm.parent.expire(4599.9)
    state = weakref.ref(inside(warm.parent))
    assert warm.parent.expire(4600.0)
    assert state() is None
    with pytest.raises(RefusedByGuest, match="ACTIVATE was not confirmed in time"):
        warm.parent.receive_answer(answer, 4600.0)
    with pytest.raises(WrongState):
        warm.confirm()


def test_an_activated_child_has_no_age(warm: WarmFork) -> None:
    warm.activated()
    assert not warm.parent.expire(10 * WARM_LIFETIME_S)


@pytest.mark.parametrize("step", ["holding", "called", "activated"])
def test_an_abandoned_warm_child_is_let_go(warm: WarmFork, step: str) -> None:
    answer = warm.answer() if step != "holding" else b""
    if step == "activated":
        warm.activate(answer)
    state = weakref.ref(inside(warm.parent))
    warm.parent.abandon()
    assert state() is None
    assert not warm.parent.holds
    for act in (warm.parent.update, lambda *rest: warm.parent.call(PLACE, *rest)):
        with pytest.raises(RefusedByGuest, match="abandoned"):
            act(UPDATED, 5.0)
    with pytest.raises(RefusedByGuest, match="abandoned"):
        warm.parent.receive_answer(answer, 5.0)


def test_a_warm_grant_that_is_not_confirmed_in_the_image_keys_time_is_erased(
    family: Family,
) -> None:
    fork = WarmFork.of(family)
    fork.hold()
    assert fork.parent.expire(3600.0)


def test_evidence_is_asked_for_once_a_call(warm: WarmFork) -> None:
    call = warm.call()
    need = only(warm.child.receive_call(call), NeedEvidence)
    warm.child.provide_evidence(warm.guest.evidence(need.report_data))
    with pytest.raises(WrongState, match="no evidence"):
        warm.child.provide_evidence(warm.guest.evidence(need.report_data))
