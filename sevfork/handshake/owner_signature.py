"""What an owner signs is signed as OpenSSH signs: so an agent, and a token behind it, can do it.

The signature is Ed25519's, 64 bytes, over the envelope of OpenSSH's PROTOCOL.sshsig. The namespace
is in it, so that nothing signed for one use, ours or anybody's, passes for another.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sevfork.errors import NotAuthentic
from sevfork.wire.lp import lp

CERTIFICATE_NAMESPACE = "owner-certificate@sevfork"
TOKEN_NAMESPACE = "owner-token@sevfork"  # noqa: S105  # no password
QUESTION_NAMESPACE = "owner-question@sevfork"
_MAGIC = b"SSHSIG"
_HASH = b"sha512"


class Signer(Protocol):
    """An owner's key, wherever it is kept. ``public`` has 32 bytes, a signature 64."""

    @property
    def public(self) -> bytes: ...

    def sign(self, namespace: str, message: bytes) -> bytes: ...


def envelope(namespace: str, message: bytes) -> bytes:
    """What the key itself signs; OpenSSH's ``string`` is our LP, and one of them is reserved."""
    digest = hashlib.sha512(message).digest()
    return _MAGIC + lp(namespace.encode(), b"", _HASH, digest)


def check_owner_signature(public: bytes, namespace: str, message: bytes, signature: bytes) -> None:
    """Raise NotAuthentic unless the owner with this key signed this message, for this use."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public)
        key.verify(signature, envelope(namespace, message))
    except (InvalidSignature, ValueError) as exc:
        raise NotAuthentic(f"'{namespace}': the signature is not valid") from exc
