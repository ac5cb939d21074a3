"""An owner's public key, in the forms that people have it in."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)

from sevfork.errors import UsageError
from sevfork.owner.read import read_text

_PEM, _PUBLIC_PEM, _SSH = "-----BEGIN", "-----BEGIN PUBLIC KEY", ("ssh-", "sk-ssh-")


def read_public_key(text: str) -> bytes:
    """The Ed25519 key (32 bytes) in ``text``, or in the file of that name: OpenSSH's or PEM.

    Raises UsageError for anything else.
    """
    if text.lstrip().startswith((_PEM, *_SSH)):
        return parse_public_key(text)
    return parse_public_key(read_text("the owner's public key", Path(text)))


def is_public_key(text: str) -> bool:
    """Whether it begins as one."""
    return text.lstrip().startswith((_PUBLIC_PEM, *_SSH))


def parse_public_key(text: str) -> bytes:
    """The Ed25519 key (32 bytes) in OpenSSH's line or in PEM. Raises UsageError."""
    text = text.strip()
    if text.startswith("sk-"):
        raise UsageError(
            "a FIDO key (sk-ssh-ed25519) signs more than it is given, which guests do not take",
            hint="an Ed25519 key of an OpenPGP or PIV token, behind its ssh-agent, will do",
        )
    try:
        load = load_pem_public_key if text.startswith(_PEM) else load_ssh_public_key
        key = load(text.encode())
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise _no_key(text) from exc
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(text)
    return key.public_bytes_raw()


def openssh_line(public: bytes) -> str:
    """``ssh-ed25519 AAAA...``, for 32 bytes."""
    key = Ed25519PublicKey.from_public_bytes(public)
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _no_key(text: str) -> UsageError:
    """A text that may be a private key is not repeated."""
    what = f"'{text[:60]}'" if is_public_key(text) else "this"
    return UsageError(
        f"{what} is no Ed25519 public key",
        hint="it is a line 'ssh-ed25519 AAAA...', or PEM: 'sevfork owner public' prints it",
    )
