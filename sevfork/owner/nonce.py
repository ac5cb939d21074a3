"""The nonce of an owner: evidence that holds it was made after it was."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from sevfork.errors import UsageError

NONCE_SIZE = 32


def new_nonce() -> bytes:
    return secrets.token_bytes(NONCE_SIZE)


def read_nonce(text: str) -> bytes:
    """32 bytes of hexadecimal, or a file that holds them. Raises UsageError."""
    found = text if _is_nonce(text) else _content(Path(text))
    if not _is_nonce(found):
        raise UsageError(
            f"'{text}' is no nonce of {2 * NONCE_SIZE} hexadecimal digits",
            hint="'sevfork owner nonce -o FILE' makes one",
        )
    return bytes.fromhex(found)


def _is_nonce(text: str) -> bool:
    return re.fullmatch(rf"[0-9a-f]{{{2 * NONCE_SIZE}}}", text) is not None


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(1024).decode("ascii", "replace").strip()
    except (OSError, ValueError) as exc:
        raise UsageError(f"the nonce '{path}' cannot be read: {exc}") from exc
