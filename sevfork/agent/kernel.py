"""Settings of the guest's kernel that a restore needs, and nothing else may keep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NONLOCAL_BIND = Path("/proc/sys/net/ipv4/ip_nonlocal_bind")
_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


@contextmanager
def binding_allowed() -> Iterator[None]:
    """A restored socket may bind the guest's address although the link is off."""
    with _changed(_NONLOCAL_BIND, "1"):
        yield


@contextmanager
def reserving_allowed() -> Iterator[None]:
    """Whatever the workload had reserved may be mapped.

    CRIU maps everything writable at first (mem.c, ``premap_private_vma``), also what a program
    reserved without access, and the kernel refuses what is larger than the guest's memory (seen:
    "mem.c:964"). Afterwards the workload is under the same rule as in its parent.
    """
    with _changed(_OVERCOMMIT, "1"):
        yield


@contextmanager
def _changed(setting: Path, value: str) -> Iterator[None]:
    before = setting.read_text()
    setting.write_text(value)
    try:
        yield
    finally:
        setting.write_text(before)
