"""Descent, checked by someone who has nothing but the owner's public key."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from sevfork.errors import NotAuthentic, RefusedByGuest, WrongState
from sevfork.handshake import (
    Allowance,
    ForkCertificate,
    InstanceKey,
    Lineage,
    Manifest,
    OwnerCertificate,
    OwnerToken,
    ParentSession,
    Slot,
    owner_digest,
)
from sevfork.handshake.launch import LaunchConfig, Role
from sevfork.owner.key_file import PrivateKey
from tests.support.fake_family import Family, flip

OWNER = PrivateKey.generate()
OWNER_DIGEST = owner_digest(OWNER.public)


@pytest.fixture
def keys() -> list[InstanceKey]:
    return [InstanceKey() for _ in range(4)]


@pytest.fixture
def lineage(keys: list[InstanceKey]) -> Lineage:
    """A root and three generations."""
    descent = Lineage(keys[0].public, OwnerCertificate.issue(OWNER, keys[0].public))
    for generation, (parent, child) in enumerate(zip(keys, keys[1:], strict=False), 1):
        descent = descent.extended(link(parent, child, generation))
    return descent


def link(parent: InstanceKey, child: InstanceKey, generation: int) -> ForkCertificate:
    fields = (parent.public, child.public, b"f" * 16, 0, generation, b"m" * 48)
    return ForkCertificate(*fields).signed(parent)


def changed(lineage: Lineage, index: int, certificate: ForkCertificate) -> Lineage:
    links = list(lineage.certificates)
    links[index] = certificate
    return replace(lineage, certificates=tuple(links))


def test_a_true_descent_verifies_from_its_bytes(lineage: Lineage) -> None:
    decoded = Lineage.decode(lineage.encode())
    decoded.verify(OWNER_DIGEST)
    assert (decoded.generation, len(decoded.keys)) == (3, 4)


def test_a_root_is_its_own_lineage(keys: list[InstanceKey]) -> None:
    Lineage(keys[0].public).verify(None)
    assert Lineage(keys[0].public).generation == 0


def test_another_owners_family_is_rejected(lineage: Lineage) -> None:
    with pytest.raises(NotAuthentic, match="another owner"):
        lineage.verify(owner_digest(b"x" * 32))


def test_owners_certificate_of_another_root_is_rejected(
    lineage: Lineage, keys: list[InstanceKey]
) -> None:
    other = OwnerCertificate.issue(OWNER, keys[1].public)
    with pytest.raises(NotAuthentic, match="another root"):
        replace(lineage, owner_certificate=other).verify(OWNER_DIGEST)


def test_owners_certificate_that_the_owner_did_not_sign_is_rejected(lineage: Lineage) -> None:
    assert lineage.owner_certificate is not None
    forged = replace(lineage.owner_certificate, signature=bytes(64))
    with pytest.raises(NotAuthentic, match="signature"):
        replace(lineage, owner_certificate=forged).verify(OWNER_DIGEST)


def test_family_without_owner_is_not_taken_for_one_with_and_vice_versa(lineage: Lineage) -> None:
    with pytest.raises(NotAuthentic, match="missing, or extra"):
        lineage.verify(None)
    with pytest.raises(NotAuthentic, match="missing, or extra"):
        replace(lineage, owner_certificate=None).verify(OWNER_DIGEST)


@pytest.mark.parametrize("lost", [0, 1])
def test_missing_link_is_rejected(lineage: Lineage, lost: int) -> None:
    links = lineage.certificates[:lost] + lineage.certificates[lost + 1 :]
    with pytest.raises(NotAuthentic, match="does not follow"):
        replace(lineage, certificates=links).verify(OWNER_DIGEST)


def test_swapped_links_are_rejected(lineage: Lineage) -> None:
    first, second, third = lineage.certificates
    with pytest.raises(NotAuthentic, match="does not follow"):
        replace(lineage, certificates=(second, first, third)).verify(OWNER_DIGEST)


def test_descent_that_returns_to_an_ancestor_is_rejected(
    lineage: Lineage, keys: list[InstanceKey]
) -> None:
    with pytest.raises(NotAuthentic, match="does not follow"):
        lineage.extended(link(keys[3], keys[0], 4)).verify(OWNER_DIGEST)


def test_link_signed_by_another_than_the_parent_is_rejected(
    lineage: Lineage, keys: list[InstanceKey]
) -> None:
    forged = replace(lineage.certificates[1], signature=bytes(64)).signed(keys[3])
    with pytest.raises(NotAuthentic, match="signature"):
        changed(lineage, 1, forged).verify(OWNER_DIGEST)


@pytest.mark.parametrize(
    "change",
    [{"fork_id": b"F" * 16}, {"child_index": 1}, {"manifest_digest": b"M" * 48}],
    ids=lambda change: next(iter(change)),
)
def test_changed_field_of_a_certificate_is_rejected(lineage: Lineage, change: Any) -> None:
    forged = replace(lineage.certificates[1], **change)
    with pytest.raises(NotAuthentic, match="signature"):
        changed(lineage, 1, forged).verify(OWNER_DIGEST)


@pytest.mark.parametrize("generation", [0, 1, 3])
def test_generation_that_does_not_grow_is_rejected(
    lineage: Lineage, keys: list[InstanceKey], generation: int
) -> None:
    with pytest.raises(NotAuthentic, match="generation"):
        changed(lineage, 1, link(keys[1], keys[2], generation)).verify(OWNER_DIGEST)


@pytest.fixture
def root(keys: list[InstanceKey]) -> Lineage:
    """Launched with an owner, who has not adopted it yet."""
    return Lineage(keys[0].public)


def test_adoption_is_the_owners_word_and_the_same_word_again_changes_nothing(root: Lineage) -> None:
    certificate = OwnerCertificate.issue(OWNER, root.root_key)
    adopted = root.adopted(certificate, OWNER_DIGEST)
    adopted.verify(OWNER_DIGEST)
    assert adopted.adopted(certificate, OWNER_DIGEST) == adopted


def test_adoption_by_another_owner_is_refused(root: Lineage) -> None:
    stranger = OwnerCertificate.issue(PrivateKey.generate(), root.root_key)
    with pytest.raises(NotAuthentic, match="another owner"):
        root.adopted(stranger, OWNER_DIGEST)


def test_adoption_by_a_certificate_for_another_root_is_refused(root: Lineage) -> None:
    other = OwnerCertificate.issue(OWNER, InstanceKey().public)
    with pytest.raises(NotAuthentic, match="another root"):
        root.adopted(other, OWNER_DIGEST)


@pytest.mark.parametrize("position", [1, 2, 4, 35, 36, 67, 68, 131])
def test_adoption_by_a_certificate_with_a_flipped_bit_is_refused(
    root: Lineage, position: int
) -> None:
    forged = flip(OwnerCertificate.issue(OWNER, root.root_key).encode(), position)
    with pytest.raises(NotAuthentic):
        root.adopted(OwnerCertificate.decode(forged), OWNER_DIGEST)


def test_adoption_of_a_child_is_refused(lineage: Lineage) -> None:
    assert lineage.owner_certificate is not None
    with pytest.raises(RefusedByGuest, match="is a child"):
        lineage.adopted(lineage.owner_certificate, OWNER_DIGEST)


def test_adoption_of_a_vm_without_an_owner_is_refused(root: Lineage) -> None:
    with pytest.raises(RefusedByGuest, match="without an owner"):
        root.adopted(OwnerCertificate.issue(OWNER, root.root_key), None)


def test_certificate_is_not_swapped_after_adoption(root: Lineage) -> None:
    certificate = OwnerCertificate.issue(OWNER, root.root_key)
    adopted = root.adopted(certificate, OWNER_DIGEST)
    stranger = OwnerCertificate.issue(PrivateKey.generate(), root.root_key)
    with pytest.raises(RefusedByGuest, match="adopted already"):
        adopted.adopted(stranger, OWNER_DIGEST)


def test_owners_signature_on_a_certificate_is_not_one_on_a_root() -> None:
    """Labels keep the uses of one key apart: the owner signs tokens with it too."""
    key = InstanceKey().public
    token = OwnerToken.issue(
        OWNER, instance_key=key, policy_digest=b"p" * 48, serial=1, allowed=Allowance(1)
    )
    public = OWNER.public
    with pytest.raises(NotAuthentic):
        OwnerCertificate(public, key, token.signature).check(OWNER_DIGEST)


def test_session_refuses_a_lineage_that_is_not_its_own(family: Family) -> None:
    with pytest.raises(WrongState, match="another VM"):
        family.parent(lineage=Family().lineage)


def test_session_refuses_a_generation_that_does_not_grow(
    family: Family, manifest: Manifest
) -> None:
    fork = family.fork()
    lineage = fork.release().lineage
    with pytest.raises(WrongState, match="generation 1"):
        ParentSession(
            fork.guest.own(),
            fork.guest.instance,
            lineage,
            Slot(b"f" * 16, 0, 1),
            manifest,
            family.processor.verify,
            now=0.0,
            lifetime_s=1.0,
            image_key_lifetime_s=1.0,
        )


def test_session_refuses_a_root_that_its_owner_has_not_certified(owned: Family) -> None:
    uncertified = replace(owned.lineage, owner_certificate=None)
    with pytest.raises(NotAuthentic, match="missing"):
        owned.parent(lineage=uncertified)


def test_descent_has_a_limit(family: Family) -> None:
    keys = [InstanceKey() for _ in range(255)]
    fork = family.fork()
    chain = [family.root.instance, *keys[:254], fork.guest.instance]
    lineage = Lineage(family.root.instance.public)
    for generation, (parent, child) in enumerate(zip(chain, chain[1:], strict=False), 1):
        lineage = lineage.extended(link(parent, child, generation))
    assert Lineage.decode(lineage.encode()) == lineage
    with pytest.raises(RefusedByGuest, match="255"):
        family.parent(fork.guest, lineage)


def test_session_refuses_a_root_with_a_descent(family: Family) -> None:
    """The hardware says root; a lineage that says child is another VM's, whoever signed it."""
    first = family.fork()
    lineage = first.release().lineage
    liar = family.launch(LaunchConfig(Role.ROOT), instance=first.guest.instance)
    with pytest.raises(WrongState, match="another VM"):
        family.parent(liar, lineage)


def test_session_refuses_a_child_without_a_descent(family: Family) -> None:
    child = family.fork().guest
    with pytest.raises(WrongState, match="another VM"):
        family.parent(child, Lineage(child.instance.public))
