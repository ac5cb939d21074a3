"""Small text files of keys, passphrases and nonces."""

from __future__ import annotations

from pathlib import Path

from sevfork.errors import UsageError

_LIMIT_BYTES = 64 * 1024


def read_text(what: str, path: Path, *, hint: str | None = None) -> str:
    """Raises UsageError, which names what it would have been; no more than 64 KiB are read."""
    try:
        with path.open("rb") as file:
            return file.read(_LIMIT_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise UsageError(f"{what} '{path}' cannot be read: {reason}", hint=hint) from exc
