"""What an owner signs is what OpenSSH signs, and nothing else passes for it."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sevfork.errors import NotAuthentic
from sevfork.handshake.owner_signature import (
    CERTIFICATE_NAMESPACE,
    TOKEN_NAMESPACE,
    check_owner_signature,
    envelope,
)
from sevfork.owner.key_file import PrivateKey
from tests.support.fake_family import flip

KEY = PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
MESSAGE = b"one message"
SIGNATURE = KEY.sign(TOKEN_NAMESPACE, MESSAGE)
# By ssh-keygen -Y sign -n owner-token@sevfork (OpenSSH 9.2), with this key, over this message.
OF_OPENSSH = bytes.fromhex(
    "541dab93fcd14c65db18ae958b8b65926a74d0a276689d2bbda830f87e9c4159"
    "3b587ae539869c58b1557c0b5c60d67d81c28225adbda123a342e3ec9573160f"
)


def test_a_signature_is_that_of_ssh_keygen() -> None:
    assert SIGNATURE == OF_OPENSSH
    check_owner_signature(KEY.public, TOKEN_NAMESPACE, MESSAGE, OF_OPENSSH)


def test_the_envelope_is_that_of_the_specification() -> None:
    start = b"SSHSIG" + b"\0\0\0\x03a@b" + b"\0\0\0\0" + b"\0\0\0\x06sha512" + b"\0\0\0\x40"
    assert envelope("a@b", MESSAGE)[:-64] == start
    assert len(envelope("a@b", MESSAGE)) == len(start) + 64


@pytest.mark.parametrize("position", range(64))
def test_a_signature_with_a_flipped_bit_is_rejected(position: int) -> None:
    with pytest.raises(NotAuthentic, match=TOKEN_NAMESPACE):
        check_owner_signature(KEY.public, TOKEN_NAMESPACE, MESSAGE, flip(SIGNATURE, position))


@pytest.mark.parametrize(
    ("public", "namespace", "message", "signature"),
    [
        (PrivateKey.generate().public, TOKEN_NAMESPACE, MESSAGE, SIGNATURE),
        (KEY.public, CERTIFICATE_NAMESPACE, MESSAGE, SIGNATURE),
        (KEY.public, "git", MESSAGE, SIGNATURE),
        (KEY.public, TOKEN_NAMESPACE, MESSAGE + b"\n", SIGNATURE),
        (KEY.public, TOKEN_NAMESPACE, MESSAGE, SIGNATURE[:63]),
        (KEY.public, TOKEN_NAMESPACE, MESSAGE, b""),
        (KEY.public[:31], TOKEN_NAMESPACE, MESSAGE, SIGNATURE),
    ],
    ids=["key", "use", "another program", "message", "cut short", "empty", "no key"],
)
def test_a_signature_for_something_else_is_rejected(
    public: bytes, namespace: str, message: bytes, signature: bytes
) -> None:
    with pytest.raises(NotAuthentic):
        check_owner_signature(public, namespace, message, signature)


def test_a_bare_signature_over_the_message_is_rejected() -> None:
    """As the owner's key would make it for a login, or for any other protocol."""
    bare = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).sign(MESSAGE)
    with pytest.raises(NotAuthentic):
        check_owner_signature(KEY.public, TOKEN_NAMESPACE, MESSAGE, bare)
