"""What a host, or another VM, may try with a child."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from msgspec.structs import asdict, replace

from sevfork.errors import AttestationFailed, NotAuthentic, RefusedByGuest, WrongState
from sevfork.handshake import (
    ChildSession,
    InstanceKey,
    Lineage,
    Manifest,
    NeedEvidence,
    OwnerCertificate,
    Send,
    manifest_digest,
)
from sevfork.handshake.keys import OfferKeys
from sevfork.handshake.launch import LaunchConfig, Role
from sevfork.handshake.manifest import TO_COME
from sevfork.handshake.messages import (
    Grant,
    Join,
    JoinCore,
    Offer,
)
from sevfork.handshake.transcript import parent_report_data, transcript_1
from sevfork.owner.key_file import PrivateKey
from sevfork.technology import Technology
from tests.support.fake_family import MANIFEST, CompromisedParent, Family, Fork, flip, only


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
    offer = replace(Offer.decode(family.fork().offer), **changes).encode()
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
    offer = replace(genuine, instance_key=instance.public).encode()
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
    other = Manifest((replace(MANIFEST.layers[0], image_key=b"K" * 32),))
    with pytest.raises(NotAuthentic, match="not the one that was offered"):
        fork.child.receive_grant(CompromisedParent(fork).grant(manifest=other.encode()))


def test_grant_of_an_early_offer_with_a_certificate_for_another_manifest_is_rejected(
    family: Family,
) -> None:
    fork = family.uncaptured()
    fork.parent.captured(MANIFEST, 1.0)
    other = Manifest((replace(MANIFEST.layers[0], image_key=b"K" * 32),))
    CompromisedParent(fork).certifies(manifest_digest=manifest_digest(other.encode()))
    with pytest.raises(NotAuthentic, match="another fork or place"):
        fork.child.receive_grant(fork.grant())


def test_host_that_makes_an_offer_an_early_one_gets_no_grant(family: Family, fork: Fork) -> None:
    """So that the child would take any manifest."""
    early = replace(Offer.decode(fork.offer), manifest_digest=TO_COME).encode()
    with pytest.raises(NotAuthentic, match="another one"):
        fork.child.receive_offer(early)
    deceived = family.child_of(early)
    session = family.session(deceived)
    need = only(session.receive_offer(early), NeedEvidence)
    join = only(session.provide_evidence(deceived.evidence(need.report_data)), Send).message
    with pytest.raises(RefusedByGuest, match="another OFFER"):
        fork.parent.receive_join(join, 1.0)


def test_certificate_for_another_child_is_rejected(family: Family, fork: Fork) -> None:
    core = JoinCore.decode(Join.decode(fork.join()).core)
    other = replace(core, instance_key=family.child_of(fork.offer).instance.public)
    with pytest.raises(NotAuthentic, match="another child"):
        fork.child.receive_grant(CompromisedParent(fork).grant(core=other))


def test_lineage_of_another_owner_is_rejected(owned: Family) -> None:
    fork = owned.fork()
    thief = PrivateKey.generate()
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
    CompromisedParent(fork).claims(generation=2, **asdict(lineage))
    with pytest.raises(NotAuthentic, match="does not fit how the parent was launched"):
        fork.child.receive_grant(fork.grant())


@pytest.mark.parametrize(
    "change",
    [{"fork_id": b"F" * 16}, {"child_index": 7}, {"manifest_digest": b"d" * 48}],
    ids=lambda change: next(iter(change)),
)
def test_certificate_for_another_place_than_the_offers_is_rejected(fork: Fork, change: Any) -> None:
    CompromisedParent(fork).certifies(**change)
    with pytest.raises(NotAuthentic, match="another fork or place"):
        fork.child.receive_grant(fork.grant())


def test_certificate_by_another_key_than_the_offers_is_rejected(fork: Fork) -> None:
    """A lineage that verifies, of a root that never made this OFFER."""
    other, parent = InstanceKey(), CompromisedParent(fork)
    parent.claims(root_key=other.public)
    parent.certifies(other, parent=other.public)
    with pytest.raises(NotAuthentic, match="another child"):
        fork.child.receive_grant(fork.grant())


def test_grant_without_a_certificate_for_the_child_is_rejected(fork: Fork) -> None:
    parent = CompromisedParent(fork)
    parent.certifies_nothing()
    with pytest.raises(NotAuthentic, match="no certificate"):
        fork.child.receive_grant(fork.grant())


def test_child_that_claims_to_be_a_root_is_rejected(family: Family) -> None:
    first = family.fork()
    second = family.fork(first.guest, first.release().lineage)
    key = first.guest.instance.public
    CompromisedParent(second).claims(root_key=key, certificates=())
    with pytest.raises(NotAuthentic, match="does not fit how the parent was launched"):
        second.child.receive_grant(second.grant())


def test_grant_before_the_childs_own_evidence_is_refused(fork: Fork) -> None:
    fork.child.receive_offer(fork.offer)
    with pytest.raises(WrongState, match="not waiting"):
        fork.child.receive_grant(Grant(b"", b"").encode())
