"""What a host, or another VM, may try with a parent that keeps a child warm."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from msgspec.structs import replace

from sevfork.errors import AttestationFailed, NotAuthentic, RefusedByGuest, WrongState
from sevfork.handshake import (
    EventKind,
    NeedEvidence,
    ReleaseState,
    Send,
    Slot,
    attest_report_data,
)
from sevfork.handshake.keys import EcdhKey
from sevfork.handshake.launch import LaunchConfig, Role
from sevfork.handshake.messages import Join
from sevfork.handshake.transcript import answer_report_data, child_report_data, transcript_3
from sevfork.handshake.warm_messages import Answer, AnswerCore
from sevfork.technology import Technology
from tests.support.fake_family import WARM_LIFETIME_S, Family, Guest, flip, inside, only
from tests.support.fake_warm import CURRENT, PLACE, UPDATED, WarmFork


@pytest.fixture
def warm(family: Family) -> WarmFork:
    return WarmFork.holding(family)


def t3_of(warm: WarmFork, call: bytes, core: bytes) -> bytes:
    return transcript_3(inside(warm.child).held.t2, call, core)


def forged_answer(warm: WarmFork, liar: Guest, **changes: Any) -> bytes:
    """The true ANSWER with other fields, and evidence of ``liar`` that speaks for exactly these."""
    call = warm.call()
    core = AnswerCore.decode(Answer.decode(warm.answer(call)).core)
    encoded = replace(core, **changes).encode()
    report_data = answer_report_data(t3_of(warm, call, encoded))
    return Answer(encoded, liar.evidence(report_data)).encode()


# One CALL, one ANSWER.


def test_second_answer_to_the_same_call_is_refused(warm: WarmFork) -> None:
    """From the true child, and genuine in every respect: only that another came first."""
    call = warm.call()
    first = warm.answer(call)
    warm.child.receive_call(WarmFork.holding(warm.family).call())
    second = forged_second(warm, call)
    warm.activate(first)
    with pytest.raises(RefusedByGuest, match="spent on another ANSWER"):
        warm.parent.receive_answer(second, 4.0)
    assert second != first


def forged_second(warm: WarmFork, call: bytes) -> bytes:
    need = only(warm.child.receive_call(call), NeedEvidence)
    evidence = warm.guest.evidence(need.report_data)
    return only(warm.child.provide_evidence(evidence), Send).message


def test_second_answer_would_have_been_good_had_it_come_first(warm: WarmFork) -> None:
    call = warm.call()
    warm.answer(call)
    warm.child.receive_call(WarmFork.holding(warm.family).call())
    assert warm.child.receive_activate(warm.activate(forged_second(warm, call)))


def test_nothing_but_a_confirm_and_events_comes_after_an_activate(warm: WarmFork) -> None:
    warm.release()
    with pytest.raises(WrongState, match="call"):
        warm.parent.call(PLACE, CURRENT, 5.0)
    with pytest.raises(WrongState, match="update"):
        warm.parent.update(CURRENT, 5.0)
    warm.confirm()
    with pytest.raises(WrongState, match="call"):
        warm.parent.call(PLACE, CURRENT, 5.0)
    with pytest.raises(WrongState, match="confirm"):
        warm.parent.receive_confirm(b"")


def test_answer_that_is_replayed_after_the_confirm_is_refused(warm: WarmFork) -> None:
    answer = warm.answer()
    warm.child.receive_activate(warm.activate(answer))
    warm.confirm()
    with pytest.raises(RefusedByGuest, match="spent"):
        warm.parent.receive_answer(answer, 5.0)


def test_join_that_is_replayed_to_a_warm_childs_parent_is_refused(family: Family) -> None:
    fork = WarmFork.of(family)
    join = fork.join()
    fork.child.receive_grant(fork.grant(join))
    fork.confirm()
    for step in (lambda: None, fork.call, fork.activate):
        step()
        with pytest.raises(RefusedByGuest, match="spent on another JOIN"):
            fork.parent.receive_join(join, 5.0)


def test_answer_to_nothing_is_refused(family: Family, warm: WarmFork) -> None:
    answer = WarmFork.holding(family).answer()
    with pytest.raises(RefusedByGuest, match="no CALL is open"):
        warm.parent.receive_answer(answer, 4.0)


def test_answer_to_a_call_that_another_has_replaced_fails_attestation(warm: WarmFork) -> None:
    late = warm.answer(warm.call())
    call = warm.call(Slot(b"g" * 16, 0, 1))
    with pytest.raises(AttestationFailed, match="report data"):
        warm.parent.receive_answer(late, 4.0)
    assert warm.child.receive_activate(warm.activate(warm.answer(call)))


def test_answer_that_fails_does_not_spend_the_call_of_the_true_child(warm: WarmFork) -> None:
    answer = warm.answer()
    for position in (0, 1, 2, 10, 60, 140, len(answer) - 1):
        with pytest.raises((NotAuthentic, AttestationFailed)):
            warm.parent.receive_answer(flip(answer, position), 4.0)
    assert warm.parent.holds
    assert warm.child.receive_activate(warm.activate(answer))


# Evidence.


def test_evidence_of_the_join_used_again_fails_attestation(family: Family) -> None:
    fork = WarmFork.of(family)
    join = fork.join()
    fork.child.receive_grant(fork.grant(join))
    fork.confirm()
    answer = Answer.decode(fork.answer())
    stale = Answer(answer.core, Join.decode(join).evidence).encode()
    with pytest.raises(AttestationFailed, match="report data"):
        fork.parent.receive_answer(stale, 4.0)


def test_evidence_of_an_earlier_answer_used_again_fails_attestation(warm: WarmFork) -> None:
    earlier = Answer.decode(warm.answer())
    answer = Answer.decode(warm.answer())
    stale = Answer(answer.core, earlier.evidence).encode()
    with pytest.raises(AttestationFailed, match="report data"):
        warm.parent.receive_answer(stale, 4.0)


def test_evidence_of_another_warm_child_fails_attestation(family: Family, warm: WarmFork) -> None:
    other = WarmFork.holding(family).answer()
    warm.call()
    with pytest.raises(AttestationFailed, match="report data"):
        warm.parent.receive_answer(other, 4.0)


@pytest.mark.parametrize("label", [b"sevfork/1 answer", b"sevfork/1 child"])
def test_evidence_made_by_attest_is_no_answers(warm: WarmFork, label: bytes) -> None:
    call = warm.call()
    answer = Answer.decode(warm.answer(call))
    evidence = warm.guest.evidence(attest_report_data(label, t3_of(warm, call, answer.core)))
    with pytest.raises(AttestationFailed, match="report data"):
        warm.parent.receive_answer(Answer(answer.core, evidence).encode(), 4.0)


def test_evidence_over_t3_with_a_joins_label_is_no_answers(warm: WarmFork) -> None:
    call = warm.call()
    answer = Answer.decode(warm.answer(call))
    evidence = warm.guest.evidence(child_report_data(t3_of(warm, call, answer.core)))
    with pytest.raises(AttestationFailed, match="report data"):
        warm.parent.receive_answer(Answer(answer.core, evidence).encode(), 4.0)


def test_evidence_of_a_twin_that_was_launched_for_the_same_offer_fails_attestation(
    family: Family, warm: WarmFork
) -> None:
    twin = family.child_of(warm.offer)
    with pytest.raises(AttestationFailed, match="not that of the VM that has joined"):
        warm.parent.receive_answer(forged_answer(warm, twin), 4.0)


def test_evidence_of_another_chip_fails_attestation_even_where_any_chip_will_do() -> None:
    family = Family(same_chip=False)
    warm = WarmFork.holding(family, same_chip=False, chip_id=b"d" * 64)
    moved = dataclasses.replace(warm.guest, chip_id=b"e" * 64)
    with pytest.raises(AttestationFailed, match="not that of the VM that has joined"):
        warm.parent.receive_answer(forged_answer(warm, moved), 4.0)
    assert warm.release().manifest == CURRENT


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"measurement": b"M" * 48}, "launch identity"),
        ({"config": LaunchConfig(Role.CHILD, None, b"x" * 48)}, "config"),
        ({"config": LaunchConfig(Role.ROOT)}, "config"),
        ({"chip_id": b"d" * 64}, "chip"),
        ({"technology": Technology.SEV_SNP}, "launch identity"),
        ({"report_id": None}, "report id"),
    ],
    ids=["image", "offer", "role", "chip", "technology", "report id"],
)
def test_evidence_of_another_launch_fails_attestation(
    warm: WarmFork, change: Any, reason: str
) -> None:
    liar = dataclasses.replace(warm.guest, **change)
    with pytest.raises(AttestationFailed, match=reason):
        warm.parent.receive_answer(forged_answer(warm, liar), 4.0)


def test_evidence_signed_by_nobody_we_trust_fails_attestation(warm: WarmFork) -> None:
    liar = Family().launch(warm.guest.config, report_id=warm.guest.report_id)
    with pytest.raises(AttestationFailed, match="not signed"):
        warm.parent.receive_answer(forged_answer(warm, liar), 4.0)


def test_a_technology_without_report_ids_still_activates() -> None:
    """TDX: that the VM which answers is the one that has joined is then told by K alone."""
    tdx: dict[str, Any] = {"technology": Technology.TDX, "report_id": None}
    family = Family(**tdx)
    warm = WarmFork.holding(family, **tdx)
    assert warm.release().manifest == CURRENT


# Keys.


def test_share_of_an_answer_swapped_by_the_relay_fails_attestation(warm: WarmFork) -> None:
    answer = Answer.decode(warm.answer())
    core = replace(AnswerCore.decode(answer.core), share=EcdhKey().share)
    with pytest.raises(AttestationFailed, match="report data"):
        warm.parent.receive_answer(Answer(core.encode(), answer.evidence).encode(), 4.0)


@pytest.mark.parametrize("share", [b"\4" + bytes(96), b"\2" + bytes(96), bytes(97)])
def test_share_of_an_answer_that_is_no_point_is_rejected(warm: WarmFork, share: bytes) -> None:
    with pytest.raises(NotAuthentic, match="no point"):
        warm.parent.receive_answer(forged_answer(warm, warm.guest, share=share), 4.0)
    assert warm.parent.holds


def test_whoever_has_signed_evidence_but_not_k_opens_no_activate(warm: WarmFork) -> None:
    """A host that gets the true guest to sign for a share of the host's own."""
    own = EcdhKey()
    activate = warm.activate(forged_answer(warm, warm.guest, share=own.share))
    with pytest.raises(NotAuthentic, match="does not open"):
        warm.child.receive_activate(activate)


# CONFIRM, events and time.


def test_confirm_of_holding_is_none_of_an_activated_child(family: Family) -> None:
    fork = WarmFork.of(family)
    fork.hold()
    confirm = fork.child.confirm()
    fork.parent.receive_confirm(confirm)
    for step in (lambda: None, fork.call):
        step()
        with pytest.raises(WrongState):
            fork.parent.receive_confirm(confirm)
    fork.activate(fork.answer())
    with pytest.raises(NotAuthentic, match="does not open"):
        fork.parent.receive_confirm(confirm)


def test_event_from_before_the_activate_is_none_after_it(warm: WarmFork) -> None:
    early, back = warm.child.event(EventKind.EXITED), warm.parent.event(EventKind.EXITED)
    warm.release()
    with pytest.raises(NotAuthentic, match="does not open"):
        warm.parent.receive_event(early)
    with pytest.raises(NotAuthentic, match="does not open"):
        warm.child.receive_event(back)


def test_stale_warm_child_is_not_handed_out_as_fresh(warm: WarmFork) -> None:
    """It holds a chain of yesterday's; what it is released is the chain of the CALL or nothing."""
    assert warm.update(UPDATED).manifest == UPDATED
    call = warm.call(manifest=CURRENT, now=WARM_LIFETIME_S - 10)
    answer = warm.answer(call)
    activate = warm.activate(answer, now=WARM_LIFETIME_S - 5)
    assert only(warm.child.receive_activate(activate), ReleaseState).manifest == CURRENT


def test_answer_that_the_host_kept_back_until_the_child_is_too_old_is_refused(
    warm: WarmFork,
) -> None:
    answer = warm.answer(warm.call(now=WARM_LIFETIME_S - 10))
    with pytest.raises(RefusedByGuest, match="too old"):
        warm.parent.receive_answer(answer, WARM_LIFETIME_S)


@pytest.mark.parametrize("generation", [0, 1])
def test_call_into_a_generation_that_does_not_grow_is_refused(
    owned: Family, generation: int
) -> None:
    first = owned.fork()
    lineage = first.release().lineage
    parent = owned.parent(first.guest, lineage, warm=True)
    fork = WarmFork(owned, parent, owned.child_of(parent.offer), first.guest)
    fork.hold()
    fork.confirm()
    with pytest.raises(WrongState, match="is not after its own"):
        fork.call(Slot(b"g" * 16, 0, generation))
    answer = fork.answer(fork.call(Slot(b"g" * 16, 0, 2)))
    released = only(fork.child.receive_activate(fork.activate(answer)), ReleaseState)
    assert released.generation == 2
