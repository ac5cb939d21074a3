"""Where the passphrase of an owner's key comes from: a file, the environment, or a terminal."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from pathlib import Path

from sevfork.errors import UsageError
from sevfork.owner.read import read_text

VARIABLE = "SEVFORK_OWNER_PASSPHRASE"
_TERMINAL = Path("/dev/tty")


def passphrase_for(path: Path, environ: Mapping[str, str], file: Path | None) -> bytes:
    """That of the key which is in ``path``. Raises UsageError."""
    return _given(environ, file) or _asked(f"Passphrase of '{path}': ")


def new_passphrase(path: Path, environ: Mapping[str, str], file: Path | None) -> bytes:
    """For a key that is to be in ``path``; on a terminal it is asked for twice."""
    given = _given(environ, file)
    if given:
        return given
    first = _asked(f"Passphrase for '{path}': ")
    if _asked("The same again: ") != first:
        raise UsageError("the two passphrases differ; no key was made")
    return first


def _given(environ: Mapping[str, str], file: Path | None) -> bytes | None:
    """The first line of the file, or the variable's value; None where neither is given."""
    if file is not None:
        lines = read_text("the file of a passphrase", file).splitlines()
        return _not_empty(lines[0] if lines else "", f"'{file}' has")
    if VARIABLE in environ:
        return _not_empty(environ[VARIABLE], f"{VARIABLE} has")
    return None


def _asked(prompt: str) -> bytes:
    try:
        with _TERMINAL.open("rb"):
            pass
    except OSError as exc:
        raise UsageError(
            "a passphrase is needed, and there is no terminal to ask for it",
            hint=f"give --passphrase-file FILE, or set {VARIABLE}",
        ) from exc
    try:
        return _not_empty(getpass.getpass(prompt), "you gave")
    except EOFError as exc:
        raise UsageError("no passphrase was given") from exc


def _not_empty(passphrase: str, where: str) -> bytes:
    if not passphrase:
        raise UsageError(f"{where} an empty passphrase, which protects nothing")
    return passphrase.encode("utf-8", "surrogateescape")
