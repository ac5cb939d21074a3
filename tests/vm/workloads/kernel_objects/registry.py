"""How an object is made, and how it is checked in each generation."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

FOLDER = Path("/var/lib/workload")

# Raises AssertionError where the object is not what it was; leaves it as it was found.
Check = Callable[[], None]
# Makes the object; it lives as long as what it returns.
Maker = Callable[[], Check]

HELD: dict[str, Maker] = {}  # from the start
ASKED_FOR: dict[str, Maker] = {}  # what may stand in the way of a capture or a restore

_libc = ctypes.CDLL(None, use_errno=True)


def held(maker: Maker) -> Maker:
    HELD[maker.__name__] = maker
    return maker


def asked_for(maker: Maker) -> Maker:
    ASKED_FOR[maker.__name__] = maker
    return maker


def same(got: object, want: object) -> None:
    """Fails with both values."""
    if got != want:
        raise AssertionError(f"got {got!r}, want {want!r}")


def libc(name: str, *arguments: object) -> int:
    """Call a function of the C library; raises OSError where it returns -1."""
    result: int = getattr(_libc, name)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return result
