"""Lineage: who descends from whom, checkable offline by whoever has the owner's public key."""

from __future__ import annotations

import hashlib
import hmac
from itertools import pairwise

from msgspec import Struct
from msgspec.structs import replace

from sevfork.errors import NotAuthentic, RefusedByGuest
from sevfork.handshake.codec import Cursor, MessageKind, head
from sevfork.handshake.instance import SIGNATURE_SIZE, InstanceKey, check_signature
from sevfork.handshake.launch import DIGEST_SIZE
from sevfork.handshake.messages import FORK_ID_SIZE, INSTANCE_KEY_SIZE
from sevfork.handshake.owner_signature import (
    CERTIFICATE_NAMESPACE,
    Signer,
    check_owner_signature,
)

MAX_DESCENT = 255
CERTIFICATE_SIZE = 4 + 2 * INSTANCE_KEY_SIZE + FORK_ID_SIZE + 4 + 8 + DIGEST_SIZE + SIGNATURE_SIZE
OWNER_CERTIFICATE_SIZE = 4 + 2 * INSTANCE_KEY_SIZE + SIGNATURE_SIZE
_CERTIFICATE_LABEL = b"sevfork/1 certificate"


def owner_digest(owner_key: bytes) -> bytes:
    """What a launch configuration names an owner by: SHA-384 of the Ed25519 public key."""
    return hashlib.sha384(owner_key).digest()


class ForkCertificate(Struct, frozen=True):
    """A parent's word on one child: its instance key, its place, and what it was given."""

    parent: bytes
    child: bytes
    fork_id: bytes
    child_index: int
    generation: int
    manifest_digest: bytes
    signature: bytes = bytes(SIGNATURE_SIZE)

    def signed(self, parent: InstanceKey) -> ForkCertificate:
        return replace(self, signature=parent.sign(_CERTIFICATE_LABEL, self._body()))

    def check(self) -> None:
        """Raise NotAuthentic unless the parent that it names has signed it."""
        check_signature(self.parent, _CERTIFICATE_LABEL, self._body(), self.signature)

    def encode(self) -> bytes:
        return self._body() + self.signature

    @classmethod
    def decode(cls, data: bytes) -> ForkCertificate:
        cursor = Cursor(MessageKind.CERTIFICATE, data)
        cursor.zeros(2)
        certificate = cls(
            parent=cursor.take(INSTANCE_KEY_SIZE),
            child=cursor.take(INSTANCE_KEY_SIZE),
            fork_id=cursor.take(FORK_ID_SIZE),
            child_index=cursor.number(4),
            generation=cursor.number(8),
            manifest_digest=cursor.take(DIGEST_SIZE),
            signature=cursor.take(SIGNATURE_SIZE),
        )
        cursor.end()
        return certificate

    def _body(self) -> bytes:
        place = self.fork_id + self.child_index.to_bytes(4, "big")
        given = self.generation.to_bytes(8, "big") + self.manifest_digest
        return head(MessageKind.CERTIFICATE) + self.parent + self.child + place + given


class OwnerCertificate(Struct, frozen=True):
    """The owner's word that the VM with this instance key is the root of a family."""

    owner_key: bytes
    root_key: bytes
    signature: bytes = bytes(SIGNATURE_SIZE)

    @classmethod
    def issue(cls, owner: Signer, root_key: bytes) -> OwnerCertificate:
        """For the owner's own machine, after it has attested the root."""
        unsigned = cls(owner.public, root_key)
        return replace(unsigned, signature=owner.sign(CERTIFICATE_NAMESPACE, unsigned._body()))

    def check(self, owner: bytes) -> None:
        """Raise NotAuthentic unless the owner with this digest has signed it."""
        if not hmac.compare_digest(owner_digest(self.owner_key), owner):
            raise NotAuthentic("lineage: another owner has certified the root")
        check_owner_signature(self.owner_key, CERTIFICATE_NAMESPACE, self._body(), self.signature)

    def encode(self) -> bytes:
        return self._body() + self.signature

    @classmethod
    def decode(cls, data: bytes) -> OwnerCertificate:
        cursor = Cursor(MessageKind.OWNER_CERTIFICATE, data)
        cursor.zeros(2)
        owner, root = cursor.take(INSTANCE_KEY_SIZE), cursor.take(INSTANCE_KEY_SIZE)
        certificate = cls(owner, root, cursor.take(SIGNATURE_SIZE))
        cursor.end()
        return certificate

    def _body(self) -> bytes:
        return head(MessageKind.OWNER_CERTIFICATE) + self.owner_key + self.root_key


class Lineage(Struct, frozen=True):
    """The descent of one VM: its root's instance key, the owner's word on it, each fork since."""

    root_key: bytes
    owner_certificate: OwnerCertificate | None = None
    certificates: tuple[ForkCertificate, ...] = ()

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The instance keys from the root down to the VM whose lineage this is."""
        return (self.root_key, *(link.child for link in self.certificates))

    @property
    def generation(self) -> int:
        """0 for a root."""
        return self.certificates[-1].generation if self.certificates else 0

    def extended(self, certificate: ForkCertificate) -> Lineage:
        return replace(self, certificates=(*self.certificates, certificate))

    def adopted(self, certificate: OwnerCertificate, owner: bytes | None) -> Lineage:
        """A root's, with its owner's word on it; the owner is known by digest.

        Raises RefusedByGuest for a VM without an owner, a child, or a root with another certificate
        already; NotAuthentic if the certificate is another owner's, or for another root.
        """
        if owner is None:
            raise RefusedByGuest("adopt: this VM was launched without an owner")
        if self.certificates:
            raise RefusedByGuest("adopt: this VM is a child, which has its lineage from its parent")
        if self.owner_certificate not in (None, certificate):
            raise RefusedByGuest("adopt: this VM is adopted already, by another certificate")
        adopted = replace(self, owner_certificate=certificate)
        adopted.verify(owner)
        return adopted

    def verify(self, owner: bytes | None) -> None:
        """Check the whole descent against an owner's digest, or None for a family without one.

        Raises NotAuthentic if a signature is wrong, a link is missing, or it is another's family.
        """
        if (owner is None) != (self.owner_certificate is None):
            raise NotAuthentic("lineage: the owner's certificate of the root is missing, or extra")
        if self.owner_certificate is not None and owner is not None:
            self.owner_certificate.check(owner)
            if self.owner_certificate.root_key != self.root_key:
                raise NotAuthentic("lineage: the owner has certified another root")
        self._verify_links()

    def encode(self) -> bytes:
        owner = self.owner_certificate.encode() if self.owner_certificate else b""
        first = head(MessageKind.LINEAGE, bool(owner), len(self.certificates)) + self.root_key
        return first + owner + b"".join(link.encode() for link in self.certificates)

    @classmethod
    def decode(cls, data: bytes) -> Lineage:
        """Raise NotAuthentic unless data is exactly one lineage; its signatures are not checked."""
        cursor = Cursor(MessageKind.LINEAGE, data)
        owned, count = cursor.number(1), cursor.number(1)
        if owned > 1:
            raise cursor.error("reserved bits are set")
        root = cursor.take(INSTANCE_KEY_SIZE)
        owner = OwnerCertificate.decode(cursor.take(OWNER_CERTIFICATE_SIZE)) if owned else None
        links = [ForkCertificate.decode(cursor.take(CERTIFICATE_SIZE)) for _ in range(count)]
        cursor.end()
        return cls(root, owner, tuple(links))

    def _verify_links(self) -> None:
        parents = tuple(link.parent for link in self.certificates)
        if parents != self.keys[:-1] or len(set(self.keys)) != len(self.keys):
            raise NotAuthentic("lineage: a certificate is missing, or does not follow")
        generations = [0, *(link.generation for link in self.certificates)]
        if any(later <= earlier for earlier, later in pairwise(generations)):
            raise NotAuthentic("lineage: the generations do not grow")
        for link in self.certificates:
            link.check()
