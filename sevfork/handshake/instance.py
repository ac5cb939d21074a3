"""The instance key: who this very VM is, from its boot to its end."""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sevfork.errors import NotAuthentic
from sevfork.wire.lp import lp

SIGNATURE_SIZE = 64


class InstanceKey:
    """An Ed25519 key made in RAM at boot. Nothing returns the private half."""

    def __init__(self) -> None:
        self._private = Ed25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()

    @property
    def instance_id(self) -> bytes:
        """48 bytes, SHA-384 of the public key."""
        return hashlib.sha384(self.public).digest()

    def sign(self, label: bytes, body: bytes) -> bytes:
        """An Ed25519 signature over LP(label) || LP(body)."""
        return self._private.sign(lp(label, body))


def check_signature(public: bytes, label: bytes, body: bytes, signature: bytes) -> None:
    """Raise NotAuthentic unless the key signed this body under this label."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, lp(label, body))
    except (InvalidSignature, ValueError) as exc:
        raise NotAuthentic(f"'{label.decode()}': the signature is not valid") from exc
