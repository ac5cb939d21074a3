"""Each test is something that a host, or another VM, may try."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sevfork.attest.verdict import VerifiedReport
from sevfork.attest.verify import Expected
from sevfork.errors import AttestationFailed, NotAuthentic, RefusedByGuest, WrongState
from sevfork.handshake import (
    ChildSession,
    EventKind,
    InstanceKey,
    Layer,
    Lineage,
    Manifest,
    NeedEvidence,
    OwnerCertificate,
    OwnLaunch,
    Send,
    attest_report_data,
)
from sevfork.handshake.keys import OfferKeys, SharedSecrets, derive_boxes
from sevfork.handshake.launch import LaunchConfig, Role
from sevfork.handshake.messages import (
    Confirm,
    Event,
    Grant,
    Join,
    JoinCore,
    Offer,
    ParentEvent,
)
from sevfork.handshake.transcript import child_report_data, parent_report_data, transcript_1
from sevfork.technology import Technology
from tests.support.fake_family import CompromisedParent, Family, Fork, Guest, only


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


# What the parent refuses.


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
    """The fork's JOIN with other fields, and evidence of ``liar`` that speaks for exactly these."""
    core = JoinCore.decode(Join.decode(fork.join()).core)
    encoded = dataclasses.replace(core, **changes).encode()
    report_data = child_report_data(transcript_1(fork.offer, encoded))
    return Join(encoded, liar.evidence(report_data)).encode()


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


def test_evidence_of_another_instance_for_this_join_fails_attestation(
    family: Family, fork: Fork
) -> None:
    join, other = Join.decode(fork.join()), family.fork()
    stolen = Join(join.core, Join.decode(other.join()).evidence).encode()
    with pytest.raises(AttestationFailed, match="report data"):
        fork.parent.receive_join(stolen, 1.0)


def test_evidence_made_by_attest_is_no_childs(fork: Fork) -> None:
    join = Join.decode(fork.join())
    t1 = transcript_1(fork.offer, join.core)
    evidence = fork.guest.evidence(attest_report_data(b"sevfork/1 child", t1))
    with pytest.raises(AttestationFailed, match="report data"):
        fork.parent.receive_join(Join(join.core, evidence).encode(), 1.0)


def test_evidence_signed_by_nobody_we_trust_fails_attestation(fork: Fork) -> None:
    liar = Family().launch(fork.guest.config)
    with pytest.raises(AttestationFailed, match="not signed"):
        fork.parent.receive_join(forged_join(fork, liar), 1.0)


def test_key_share_swapped_by_the_relay_fails_attestation(family: Family, fork: Fork) -> None:
    join = Join.decode(fork.join())
    core = dataclasses.replace(JoinCore.decode(join.core), share=OfferKeys().share)
    with pytest.raises(AttestationFailed, match="report data"):
        fork.parent.receive_join(Join(core.encode(), join.evidence).encode(), 1.0)


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


# What the child refuses.


def test_same_offer_does_not_serve_a_second_vm_launched_for_another(family: Family) -> None:
    first, second = family.fork(), family.fork()
    with pytest.raises(NotAuthentic, match="launched for another"):
        second.child.receive_offer(first.offer)


def test_same_offer_used_twice_by_one_child_is_refused(fork: Fork) -> None:
    fork.release()
    with pytest.raises(RefusedByGuest, match="used its GRANT"):
        fork.child.receive_offer(fork.offer)


@pytest.mark.parametrize("position", [0, 1, 3, 8, 60, 1000, -1])
def test_offer_that_was_changed_on_the_way_is_rejected(fork: Fork, position: int) -> None:
    with pytest.raises(NotAuthentic, match="launched for another"):
        fork.child.receive_offer(flip(fork.offer, position % len(fork.offer)))


def test_vm_launched_as_root_takes_no_offer(family: Family) -> None:
    with pytest.raises(RefusedByGuest, match="launched as a root"):
        family.session(family.root)


def hostile_offer(family: Family, **changes: Any) -> tuple[ChildSession, bytes]:
    """A child that was launched for an OFFER of the host's own making, and that OFFER."""
    offer = dataclasses.replace(Offer.decode(family.fork().offer), **changes).encode()
    return family.session(family.child_of(offer)), offer


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"technology": Technology.TDX}, "technology"),
        ({"policy_digest": b"p" * 48}, "policy"),
        ({"launch_config": LaunchConfig(Role.ROOT, b"o" * 48).encode()}, "owner"),
    ],
)
def test_offer_of_another_family_is_refused(family: Family, changes: Any, reason: str) -> None:
    child, offer = hostile_offer(family, **changes)
    with pytest.raises(RefusedByGuest, match=reason):
        child.receive_offer(offer)


def test_offer_with_the_childs_own_instance_key_is_refused(family: Family) -> None:
    instance = InstanceKey()
    genuine = Offer.decode(family.fork().offer)
    offer = dataclasses.replace(genuine, instance_key=instance.public).encode()
    child = family.session(family.child_of(offer, instance=instance))
    with pytest.raises(RefusedByGuest, match="this instance itself"):
        child.receive_offer(offer)


@pytest.mark.parametrize(
    "changes",
    [
        {"launch_config": bytes(104)},
        {"share": bytes(97)},
        {"encapsulation_key": b"\xff" * 1568},  # coefficients beyond the modulus
    ],
)
def test_malformed_offer_is_rejected_even_if_the_vm_was_launched_for_it(
    family: Family, changes: Any
) -> None:
    child, offer = hostile_offer(family, **changes)
    with pytest.raises(NotAuthentic):
        child.receive_offer(offer)


def test_offer_made_by_the_host_itself_gets_no_further_than_a_join(family: Family) -> None:
    child, offer = hostile_offer(family, share=OfferKeys().share)
    guest = family.launch(LaunchConfig(Role.ROOT))
    need = only(child.receive_offer(offer), NeedEvidence)
    child.provide_evidence(guest.evidence(need.report_data))
    with pytest.raises(AttestationFailed):
        child.receive_grant(Grant(guest.evidence(bytes(64)), bytes(100)).encode())


def test_grant_before_the_join_is_refused(fork: Fork) -> None:
    with pytest.raises(WrongState):
        fork.child.receive_grant(Grant(b"", b"").encode())


def test_second_grant_is_refused(fork: Fork) -> None:
    grant = fork.grant()
    fork.child.receive_grant(grant)
    with pytest.raises(WrongState):
        fork.child.receive_grant(grant)


def test_grant_for_another_child_fails_attestation(family: Family, fork: Fork) -> None:
    other = family.fork()
    fork.join()
    with pytest.raises(AttestationFailed, match="report data"):
        fork.child.receive_grant(other.grant())


def test_grant_box_under_other_evidence_than_it_was_made_with_does_not_open(fork: Fork) -> None:
    box = Grant.decode(fork.grant()).box
    twin = dataclasses.replace(fork.root, report_id=b"t" * 32)
    genuine = twin.evidence(parent_words(fork))  # but not the bytes that T2 has hashed
    with pytest.raises(NotAuthentic, match="does not open"):
        fork.child.receive_grant(Grant(genuine, box).encode())


def parent_words(fork: Fork) -> bytes:
    join = Join.decode(fork.join())
    t1 = transcript_1(fork.offer, join.core)
    return parent_report_data(t1, join.evidence)


def test_grant_of_a_parent_with_another_launch_config_fails_attestation(
    family: Family, fork: Fork
) -> None:
    fork.join()
    liar = family.launch(LaunchConfig(Role.CHILD, None, b"x" * 48))
    evidence = liar.evidence(parent_words(fork))
    with pytest.raises(AttestationFailed, match="config"):
        fork.child.receive_grant(Grant(evidence, bytes(100)).encode())


def test_grant_of_a_parent_of_another_image_fails_attestation(fork: Fork) -> None:
    fork.join()
    liar = dataclasses.replace(fork.root, measurement=b"M" * 48)
    evidence = liar.evidence(parent_words(fork))
    with pytest.raises(AttestationFailed, match="launch identity"):
        fork.child.receive_grant(Grant(evidence, bytes(100)).encode())


def test_childs_own_evidence_is_not_its_parents(fork: Fork) -> None:
    fork.join()
    liar = dataclasses.replace(fork.root, report_id=fork.guest.report_id)
    evidence = liar.evidence(parent_words(fork))
    with pytest.raises(AttestationFailed, match="report id"):
        fork.child.receive_grant(Grant(evidence, bytes(100)).encode())


def test_changed_grant_is_rejected_and_the_true_one_still_works(fork: Fork) -> None:
    grant = fork.grant()
    for position in (0, 2, 5, 40, len(grant) - 1):
        with pytest.raises((NotAuthentic, AttestationFailed)):
            fork.child.receive_grant(flip(grant, position))
    assert fork.child.receive_grant(grant)


def test_manifest_that_differs_from_the_offers_digest_is_rejected(fork: Fork) -> None:
    other = Manifest((Layer(b"K" * 32, b"h" * 48, 3, b"i" * 16),))
    with pytest.raises(NotAuthentic, match="not the one that was offered"):
        fork.child.receive_grant(CompromisedParent(fork).grant(manifest=other.encode()))


def test_certificate_for_another_child_is_rejected(family: Family, fork: Fork) -> None:
    core = JoinCore.decode(Join.decode(fork.join()).core)
    other = dataclasses.replace(core, instance_key=family.child_of(fork.offer).instance.public)
    with pytest.raises(NotAuthentic, match="another child"):
        fork.child.receive_grant(CompromisedParent(fork).grant(core=other))


def test_lineage_of_another_owner_is_rejected(owned: Family) -> None:
    fork = owned.fork()
    thief = Ed25519PrivateKey.generate()
    stolen = OwnerCertificate.issue(thief, fork.root.instance.public)
    CompromisedParent(fork).claims(owner_certificate=stolen)
    with pytest.raises(NotAuthentic, match="another owner"):
        fork.child.receive_grant(fork.grant())


def test_lineage_without_its_owners_certificate_is_rejected(owned: Family) -> None:
    fork = owned.fork()
    CompromisedParent(fork).claims(owner_certificate=None)
    with pytest.raises(NotAuthentic, match="missing"):
        fork.child.receive_grant(fork.grant())


def test_root_that_claims_an_earlier_descent_is_rejected(family: Family) -> None:
    first = family.fork()
    lineage = first.release().lineage
    liar = family.launch(LaunchConfig(Role.ROOT), instance=first.guest.instance)
    fork = family.fork(liar, Lineage(liar.instance.public))
    CompromisedParent(fork).claims(generation=2, **vars(lineage))
    with pytest.raises(NotAuthentic, match="does not fit how the parent was launched"):
        fork.child.receive_grant(fork.grant())


# What a guest refuses about itself.


def test_host_that_hands_over_another_launch_config_is_refused(family: Family) -> None:
    root = family.root
    report = family.processor.verify(root.evidence(bytes(64)), expect_of(root))
    lie = LaunchConfig(Role.CHILD, None, b"x" * 48).encode()
    with pytest.raises(AttestationFailed, match="not the one that was launched"):
        OwnLaunch.of(report, lie, root.policy_digest, same_chip=True)


def expect_of(guest: Guest) -> Expected:
    own = guest.own()
    return dataclasses.replace(
        own.expect(bytes(64), guest.launch_config), other_than_report_id=b"another"
    )


def test_report_without_a_report_id_cannot_tell_instances_apart(family: Family) -> None:
    with pytest.raises(AttestationFailed, match="report id"):
        family.launch(LaunchConfig(Role.ROOT), report_id=None).own()


def test_report_that_masks_its_chip_cannot_satisfy_a_one_chip_policy(family: Family) -> None:
    with pytest.raises(AttestationFailed, match="names none"):
        family.launch(LaunchConfig(Role.ROOT), chip_id=bytes(64)).own()


def test_tdx_has_no_report_id_and_its_instances_differ_by_their_keys() -> None:
    how: dict[str, Any] = {"technology": Technology.TDX, "report_id": None, "same_chip": False}
    family = Family(**how)
    assert family.fork(**how).release().generation == 1


# The ladder: bytes -> report -> verified report -> key.


def test_nothing_but_verify_makes_a_verified_report() -> None:
    with pytest.raises(TypeError):
        VerifiedReport()


@pytest.mark.parametrize("peer", [None, object(), b"report"])
def test_no_key_without_a_verified_report(peer: Any) -> None:
    with pytest.raises(AttestationFailed):
        derive_boxes(peer, bytes(64), SharedSecrets(b"", b""), bytes(48))


def test_no_key_for_the_verified_report_of_another_exchange(family: Family) -> None:
    report = family.processor.verify(family.root.evidence(bytes(64)), expect_of(family.root))
    with pytest.raises(AttestationFailed, match="not of this exchange"):
        derive_boxes(report, b"x" * 64, SharedSecrets(b"", b""), bytes(48))
