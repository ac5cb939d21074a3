"""An owner's private key in a file, encrypted, in OpenSSH's format.

That is what `ssh-add` takes, and a stolen file has to be guessed through its bcrypt; PKCS #8, as
OpenSSL writes it, has 2048 rounds of PBKDF2 for that. Either is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from sevfork.errors import UsageError
from sevfork.handshake.owner_signature import envelope

# About a second; ssh-keygen's own default is 24.
_BCRYPT_ROUNDS = 32
_OPENSSH = "-----BEGIN OPENSSH PRIVATE KEY-----"


@dataclass(frozen=True)
class PrivateKey:
    """An Ed25519 key in this process's memory."""

    _key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> PrivateKey:
        return cls(Ed25519PrivateKey.generate())

    @property
    def public(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    def sign(self, namespace: str, message: bytes) -> bytes:
        return self._key.sign(envelope(namespace, message))

    def encrypted(self, passphrase: bytes) -> bytes:
        builder = PrivateFormat.OpenSSH.encryption_builder().kdf_rounds(_BCRYPT_ROUNDS)
        encryption = builder.build(passphrase)
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, encryption)


def read_key(path: Path, text: str, passphrase: Callable[[], bytes]) -> PrivateKey:
    """The Ed25519 key in the text of this file, OpenSSH's or PKCS #8; UsageError otherwise."""
    try:
        return _loaded(path, text, None)
    except TypeError:
        # Either loader's word for: it is encrypted.
        return _loaded(path, text, passphrase())


def _loaded(path: Path, text: str, passphrase: bytes | None) -> PrivateKey:
    load = load_ssh_private_key if text.lstrip().startswith(_OPENSSH) else load_pem_private_key
    try:
        key = load(text.strip().encode(), passphrase)
    except UnsupportedAlgorithm as exc:
        raise UsageError(f"the owner's key '{path}' is none that can be read: {exc}") from exc
    except ValueError as exc:
        wrong = "cannot be read: is the passphrase right?" if passphrase else "is no private key"
        raise UsageError(f"the owner's key '{path}' {wrong}") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(
            f"the owner's key '{path}' is no Ed25519 key",
            hint="'sevfork owner init' or 'ssh-keygen -t ed25519' makes one",
        )
    return PrivateKey(key)
