"""What a host, or another VM, may try with a parent."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from msgspec.structs import replace

from sevfork.errors import AttestationFailed, NotAuthentic, RefusedByGuest, WrongState
from sevfork.handshake import (
    EventKind,
    NeedEvidence,
    ReleaseState,
    Send,
    attest_report_data,
)
from sevfork.handshake.keys import OfferKeys
from sevfork.handshake.launch import LaunchConfig, Role
from sevfork.handshake.messages import (
    Confirm,
    Event,
    Join,
    JoinCore,
    ParentEvent,
)
from sevfork.handshake.transcript import child_report_data, join_signature, transcript_1
from sevfork.technology import Technology
from tests.support.fake_family import LIFETIME_S, MANIFEST, Family, Fork, flip, only


def test_join_that_is_replayed_to_another_offer_is_refused(family: Family) -> None:
    first, second = family.fork(), family.fork()
    with pytest.raises(RefusedByGuest, match="another OFFER"):
        second.parent.receive_join(first.join(), 1.0)


def test_join_that_is_replayed_after_the_confirm_is_refused(fork: Fork) -> None:
    join = fork.join()
    fork.child.receive_grant(fork.grant(join))
    fork.confirm()
    with pytest.raises(RefusedByGuest, match="spent"):
        fork.parent.receive_join(join, 2.0)


def test_join_before_the_capture_is_refused_and_the_true_one_still_works(family: Family) -> None:
    fork = family.uncaptured()
    join = fork.join()
    with pytest.raises(RefusedByGuest, match="captured nothing yet"):
        fork.parent.receive_join(join, 1.0)
    fork.parent.captured(MANIFEST, 2.0)
    (released,) = fork.child.receive_grant(fork.grant(join, 3.0))
    assert only([released], ReleaseState).manifest == MANIFEST
    assert fork.confirm()


def test_offer_whose_capture_is_there_takes_no_other(family: Family, fork: Fork) -> None:
    early = family.uncaptured()
    early.parent.captured(MANIFEST, 1.0)
    for parent in (early.parent, fork.parent):
        with pytest.raises(WrongState, match="does not wait"):
            parent.captured(MANIFEST, 2.0)
    early.parent.abandon()
    with pytest.raises(WrongState, match="does not wait"):
        early.parent.captured(MANIFEST, 3.0)


def test_early_offer_is_erased_when_its_time_is_over(family: Family) -> None:
    fork = family.uncaptured()
    assert fork.parent.expire(LIFETIME_S)
    with pytest.raises(WrongState, match="does not wait"):
        fork.parent.captured(MANIFEST, LIFETIME_S)


def test_second_vm_launched_for_the_same_offer_is_refused(family: Family, fork: Fork) -> None:
    twin = family.child_of(fork.offer)
    session = family.session(twin)
    need = only(session.receive_offer(fork.offer), NeedEvidence)
    join = only(session.provide_evidence(twin.evidence(need.report_data)), Send)
    fork.grant()
    with pytest.raises(RefusedByGuest, match="spent"):
        fork.parent.receive_join(join.message, 1.0)


def test_second_vm_is_refused_while_the_grant_is_being_made(family: Family, fork: Fork) -> None:
    twin = family.child_of(fork.offer)
    session = family.session(twin)
    need = only(session.receive_offer(fork.offer), NeedEvidence)
    join = only(session.provide_evidence(twin.evidence(need.report_data)), Send)
    fork.parent.receive_join(fork.join(), 1.0)
    with pytest.raises(RefusedByGuest, match="spent"):
        fork.parent.receive_join(join.message, 1.0)


def test_join_after_the_offer_expired_is_refused(fork: Fork) -> None:
    with pytest.raises(RefusedByGuest, match="expired"):
        fork.parent.receive_join(fork.join(), 600.0)


def test_grant_is_not_made_after_the_offer_expired(fork: Fork) -> None:
    need = only(fork.parent.receive_join(fork.join(), 599.0), NeedEvidence)
    with pytest.raises(RefusedByGuest, match="expired"):
        fork.parent.provide_evidence(fork.root.evidence(need.report_data), 601.0)


def test_grant_is_not_sent_again_after_the_offer_expired(fork: Fork) -> None:
    join = fork.join()
    fork.grant(join)
    with pytest.raises(RefusedByGuest, match="over"):
        fork.parent.receive_join(join, 600.0)


def forged_join(fork: Fork, liar: Any, **changes: Any) -> bytes:
    """The fork's JOIN with other fields, and a ``liar`` who speaks for exactly these."""
    core = JoinCore.decode(Join.decode(fork.join()).core)
    encoded = replace(core, **changes).encode()
    t1 = transcript_1(fork.offer, encoded)
    signature = join_signature(liar.instance, t1)
    return Join(encoded, signature, liar.evidence(child_report_data(t1))).encode()


def test_join_from_a_vm_launched_as_root_is_refused(family: Family, fork: Fork) -> None:
    liar = family.launch(LaunchConfig(Role.ROOT))
    with pytest.raises(RefusedByGuest, match="not launched as a child"):
        fork.parent.receive_join(forged_join(fork, liar, launch_config=liar.launch_config), 1.0)


def test_join_of_a_root_that_claims_to_be_a_child_fails_attestation(
    family: Family, fork: Fork
) -> None:
    liar = family.launch(LaunchConfig(Role.ROOT))
    with pytest.raises(AttestationFailed, match="config"):
        fork.parent.receive_join(forged_join(fork, liar), 1.0)


def test_join_from_a_child_launched_for_another_offer_is_refused(
    family: Family, fork: Fork
) -> None:
    other = family.child_of(family.fork().offer)
    with pytest.raises(RefusedByGuest, match="another OFFER"):
        fork.parent.receive_join(forged_join(fork, other, launch_config=other.launch_config), 1.0)


def test_join_of_a_child_of_another_offer_that_names_this_one_fails_attestation(
    family: Family, fork: Fork
) -> None:
    other = family.child_of(family.fork().offer)
    with pytest.raises(AttestationFailed, match="config"):
        fork.parent.receive_join(forged_join(fork, other), 1.0)


def test_join_from_a_vm_of_another_owner_is_refused(family: Family, fork: Fork) -> None:
    digest = hashlib.sha384(fork.offer).digest()
    thief = family.launch(LaunchConfig(Role.CHILD, b"o" * 48, digest))
    with pytest.raises(RefusedByGuest, match="owner"):
        fork.parent.receive_join(forged_join(fork, thief, launch_config=thief.launch_config), 1.0)


def test_join_that_names_another_technology_is_refused(fork: Fork) -> None:
    forged = forged_join(fork, fork.guest, technology=Technology.SEV_SNP)
    with pytest.raises(RefusedByGuest, match="technology"):
        fork.parent.receive_join(forged, 1.0)


def test_evidence_of_another_technology_fails_attestation(family: Family, fork: Fork) -> None:
    digest = hashlib.sha384(fork.offer).digest()
    config = LaunchConfig(Role.CHILD, None, digest)
    liar = family.launch(config, technology=Technology.SEV_SNP)
    with pytest.raises(AttestationFailed, match="launch identity"):
        fork.parent.receive_join(forged_join(fork, liar), 1.0)


def test_child_of_a_patched_image_fails_attestation(family: Family) -> None:
    fork = family.fork(measurement=b"M" * 48)
    with pytest.raises(AttestationFailed, match="launch identity"):
        fork.parent.receive_join(fork.join(), 1.0)


def test_child_on_another_chip_fails_attestation(family: Family) -> None:
    fork = family.fork(chip_id=b"d" * 64)
    with pytest.raises(AttestationFailed, match="chip"):
        fork.parent.receive_join(fork.join(), 1.0)


def test_evidence_with_the_parents_own_report_id_fails_attestation(family: Family) -> None:
    fork = family.fork(report_id=family.root.report_id)
    with pytest.raises(AttestationFailed, match="report id"):
        fork.parent.receive_join(fork.join(), 1.0)


def test_join_with_the_parents_own_instance_key_is_refused(fork: Fork) -> None:
    forged = forged_join(fork, fork.guest, instance_key=fork.root.instance.public)
    with pytest.raises(RefusedByGuest, match="the parent itself"):
        fork.parent.receive_join(forged, 1.0)


def test_join_with_an_ancestors_instance_key_is_refused(family: Family) -> None:
    first = family.fork()
    second = family.fork(first.guest, first.release().lineage)
    forged = forged_join(second, second.guest, instance_key=family.root.instance.public)
    with pytest.raises(RefusedByGuest, match="ancestor"):
        second.parent.receive_join(forged, 1.0)


def test_join_that_names_the_instance_key_of_another_vm_is_refused(
    family: Family, fork: Fork
) -> None:
    """A compromised child, whose evidence is genuine, would get that VM's place in the lineage."""
    victim = family.fork().guest
    stolen = forged_join(fork, fork.guest, instance_key=victim.instance.public)
    with pytest.raises(NotAuthentic, match="sevfork/1 join"):
        fork.parent.receive_join(stolen, 1.0)
    assert not fork.parent.spent
    fork.grant()


def test_join_signed_for_another_offer_is_refused(family: Family, fork: Fork) -> None:
    join, other = Join.decode(fork.join()), Join.decode(family.fork().join())
    moved = replace(join, signature=other.signature)
    with pytest.raises(NotAuthentic, match="sevfork/1 join"):
        fork.parent.receive_join(moved.encode(), 1.0)


@pytest.mark.parametrize("position", [0, 31, 63])
def test_join_with_a_flipped_bit_in_its_signature_is_refused(fork: Fork, position: int) -> None:
    join = Join.decode(fork.join())
    forged = replace(join, signature=flip(join.signature, position))
    with pytest.raises(NotAuthentic, match="sevfork/1 join"):
        fork.parent.receive_join(forged.encode(), 1.0)
    fork.grant(join.encode())


def test_evidence_of_another_instance_for_this_join_fails_attestation(
    family: Family, fork: Fork
) -> None:
    join, other = Join.decode(fork.join()), family.fork()
    stolen = replace(join, evidence=Join.decode(other.join()).evidence).encode()
    with pytest.raises(AttestationFailed, match="report data"):
        fork.parent.receive_join(stolen, 1.0)


def test_evidence_made_by_attest_is_no_childs(fork: Fork) -> None:
    join = Join.decode(fork.join())
    t1 = transcript_1(fork.offer, join.core)
    evidence = fork.guest.evidence(attest_report_data(b"sevfork/1 child", t1))
    with pytest.raises(AttestationFailed, match="report data"):
        fork.parent.receive_join(replace(join, evidence=evidence).encode(), 1.0)


def test_evidence_signed_by_nobody_we_trust_fails_attestation(fork: Fork) -> None:
    liar = Family().launch(fork.guest.config)
    with pytest.raises(AttestationFailed, match="not signed"):
        fork.parent.receive_join(forged_join(fork, liar), 1.0)


def test_key_share_swapped_by_the_relay_fails_attestation(family: Family, fork: Fork) -> None:
    join = Join.decode(fork.join())
    core = replace(JoinCore.decode(join.core), share=OfferKeys().share)
    with pytest.raises(AttestationFailed, match="report data"):
        fork.parent.receive_join(replace(join, core=core.encode()).encode(), 1.0)


@pytest.mark.parametrize("share", [b"\4" + bytes(96), b"\2" + bytes(96), bytes(97)])
def test_key_share_that_is_no_point_is_rejected(fork: Fork, share: bytes) -> None:
    with pytest.raises(NotAuthentic, match="no point"):
        fork.parent.receive_join(forged_join(fork, fork.guest, share=share), 1.0)
    assert not fork.parent.spent


def test_failed_join_does_not_spend_the_offer_of_the_true_child(family: Family, fork: Fork) -> None:
    liar = family.launch(LaunchConfig(Role.ROOT))
    with pytest.raises(AttestationFailed):
        fork.parent.receive_join(forged_join(fork, liar), 1.0)
    assert fork.release().generation == 1


def test_evidence_nobody_asked_for_is_refused(fork: Fork) -> None:
    with pytest.raises(WrongState):
        fork.parent.provide_evidence(fork.root.evidence(bytes(64)), 1.0)
    with pytest.raises(WrongState):
        fork.child.provide_evidence(fork.guest.evidence(bytes(64)))


def test_second_evidence_does_not_make_a_second_grant(fork: Fork) -> None:
    fork.grant()
    with pytest.raises(WrongState):
        fork.parent.provide_evidence(fork.root.evidence(bytes(64)), 1.0)


def test_second_evidence_does_not_make_a_second_join(fork: Fork) -> None:
    fork.join()
    with pytest.raises(WrongState):
        fork.child.provide_evidence(fork.guest.evidence(bytes(64)))


# CONFIRM and events.


def test_forged_confirm_is_rejected(fork: Fork) -> None:
    fork.release()
    confirm = fork.child.confirm()
    with pytest.raises(NotAuthentic, match="does not open"):
        fork.parent.receive_confirm(flip(confirm, len(confirm) - 1))
    fork.parent.receive_confirm(confirm)


def test_confirm_of_another_child_is_rejected(family: Family, fork: Fork) -> None:
    other = family.fork()
    other.release()
    fork.release()
    with pytest.raises(NotAuthentic, match="does not open"):
        fork.parent.receive_confirm(other.child.confirm())


def test_replayed_confirm_is_refused(fork: Fork) -> None:
    fork.release()
    confirm = fork.child.confirm()
    fork.parent.receive_confirm(confirm)
    with pytest.raises(WrongState):
        fork.parent.receive_confirm(confirm)


def test_confirm_is_made_once(fork: Fork) -> None:
    fork.release()
    fork.child.confirm()
    with pytest.raises(WrongState):
        fork.child.confirm()


def test_confirm_before_the_grant_is_refused(fork: Fork) -> None:
    fork.join()
    with pytest.raises(WrongState):
        fork.child.confirm()
    with pytest.raises(WrongState):
        fork.parent.receive_confirm(Confirm(bytes(16)).encode())


def test_event_after_a_gap_is_rejected(fork: Fork) -> None:
    fork.release()
    fork.child.event(EventKind.RESTORED)
    with pytest.raises(NotAuthentic, match="got number 1, wanted 0"):
        fork.parent.receive_event(fork.child.event(EventKind.HOOKS_PASSED))


def test_replayed_event_is_rejected(fork: Fork) -> None:
    fork.release()
    event = fork.child.event(EventKind.EXITED)
    fork.parent.receive_event(event)
    with pytest.raises(NotAuthentic, match="got number 0, wanted 1"):
        fork.parent.receive_event(event)


def test_renumbered_event_is_rejected(fork: Fork) -> None:
    fork.release()
    events = [fork.child.event(EventKind.EXITED) for _ in range(2)]
    moved = Event(0, Event.decode(events[1]).box).encode()
    with pytest.raises(NotAuthentic, match="does not open"):
        fork.parent.receive_event(moved)
    fork.parent.receive_event(events[0])


def test_event_reflected_to_its_sender_is_rejected(fork: Fork) -> None:
    fork.release()
    event = Event.decode(fork.child.event(EventKind.EXITED))
    with pytest.raises(NotAuthentic):
        fork.child.receive_event(event.encode())
    with pytest.raises(NotAuthentic, match="does not open"):
        fork.child.receive_event(ParentEvent(event.sequence, event.box).encode())


def test_confirm_passed_off_as_an_event_is_rejected(fork: Fork) -> None:
    fork.release()
    box = Confirm.decode(fork.child.confirm()).box
    with pytest.raises(NotAuthentic):
        fork.parent.receive_event(Event(0, box).encode())
