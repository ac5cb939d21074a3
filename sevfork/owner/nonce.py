"""The nonce of an owner: evidence that holds it was made after it was."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from sevfork.errors import UsageError
from sevfork.owner.read import read_text

NONCE_SIZE = 32


def new_nonce() -> bytes:
    return secrets.token_bytes(NONCE_SIZE)


def read_nonce(text: str) -> bytes:
    """32 bytes of hexadecimal, or a file that holds them. Raises UsageError."""
    found = text if _is_nonce(text) else read_text("the nonce", Path(text)).strip()
    if not _is_nonce(found):
        raise UsageError(
            f"'{text}' is no nonce of {2 * NONCE_SIZE} hexadecimal digits",
            hint="'sevfork owner nonce -o FILE' makes one",
        )
    return bytes.fromhex(found)


def _is_nonce(text: str) -> bool:
    return re.fullmatch(rf"[0-9a-f]{{{2 * NONCE_SIZE}}}", text) is not None
