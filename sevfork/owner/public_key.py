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

_PEM, _SSH = "-----BEGIN", "ssh-"
_FILE_LIMIT_BYTES = 64 * 1024


def read_public_key(text: str) -> bytes:
    """The Ed25519 key (32 bytes) in ``text``, or in the file of that name: OpenSSH's or PEM.

    Raises UsageError for anything else.
    """
    stripped = text.strip()
    if not stripped.startswith((_PEM, _SSH)):
        stripped = _file(Path(text)).strip()
    try:
        load = load_pem_public_key if stripped.startswith(_PEM) else load_ssh_public_key
        key = load(stripped.encode())
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise _no_key(text) from exc
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(text)
    return key.public_bytes_raw()


def openssh_line(public: bytes) -> str:
    """``ssh-ed25519 AAAA...``, for 32 bytes."""
    key = Ed25519PublicKey.from_public_bytes(public)
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_LIMIT_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError) as exc:
        raise UsageError(f"the owner's public key '{path}' cannot be read: {exc}") from exc


def _no_key(text: str) -> UsageError:
    return UsageError(
        f"'{text.strip()[:60]}' is no Ed25519 public key",
        hint="it is a line 'ssh-ed25519 AAAA...', or PEM: 'sevfork owner public' prints it",
    )
