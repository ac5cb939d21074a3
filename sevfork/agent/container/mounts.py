"""mount(2) and umount2(2): the image has no ``mount`` program."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from sevfork.errors import SevforkError

_MNT_DETACH = 2
_NO_PRIVILEGES = 2 | 4  # MS_NOSUID, MS_NODEV


def mount_overlay(target: Path, options: str) -> None:
    """Mount an overlay at target. Raise SevforkError."""
    _call("mount", b"sevfork", os.fsencode(target), b"overlay", 0, options.encode())


def mount_tmpfs(target: Path, options: str) -> None:
    """Mount an empty tmpfs at target, without devices and set-uid programs. Raise SevforkError."""
    _call("mount", b"sevfork", os.fsencode(target), b"tmpfs", _NO_PRIVILEGES, options.encode())


def unmount(target: Path) -> None:
    """Take away what is mounted at target; it goes when its last user has gone."""
    _call("umount2", os.fsencode(target), _MNT_DETACH)


def _call(name: str, *arguments: bytes | int) -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments):
        raise SevforkError(f"{name}: {os.strerror(ctypes.get_errno())}")
