"""Files that somebody names on the command line: read within limits, written whole."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from sevfork.errors import UsageError


def read_limited(path: Path, limit_bytes: int) -> bytes:
    """All of it. Raises OSError; UsageError for more than that, which may have no end."""
    with path.open("rb") as file:
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise UsageError(f"'{path}' has more than {limit_bytes} bytes")
    return content


def write_whole(path: Path, content: bytes) -> None:
    """All of it, or what was there before stays. A device or a pipe is written to as it is.

    Raises UsageError.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            target.write_bytes(content)
            return
        beside = target.with_name(f".sevfork-{secrets.token_hex(8)}")
        _create(beside, content, 0o666)
        try:
            beside.replace(target)
        except OSError:
            beside.unlink()
            raise
    except (OSError, ValueError) as exc:
        raise _not_written(path, exc) from exc


def write_private(path: Path, content: bytes) -> None:
    """A new file that only its owner may read, in a folder that is made if need be.

    Raises UsageError, for one that exists already too; nothing is left of one that fails.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:  # one of them is a file, for instance
        raise _not_written(path, exc) from exc
    try:
        _create(path, content, 0o600)
    except FileExistsError as exc:
        raise UsageError(
            f"'{path}' exists already, and is left as it is", hint="give another name with -o FILE"
        ) from exc
    except (OSError, ValueError) as exc:
        raise _not_written(path, exc) from exc


def _create(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def _not_written(path: Path, error: OSError | ValueError) -> UsageError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return UsageError(f"'{path}' cannot be written: {reason}")
