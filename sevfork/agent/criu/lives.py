"""Which processes have become others since they were copied.

CRIU builds a copy of a process's memory on the earlier copy of the same number. That process may be
over and its number another's, or it may have called ``execve``: its vDSO lies elsewhere then, never
counts as changed, and CRIU 4.2 looks for it in the earlier copy and gives up ("in parent pagemap";
mem.c, ``should_dump_entire_vma``; measured). A page map that is not there makes it copy the process
anew. A wrong guess in that direction costs a copy, no more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from sevfork.errors import SevforkError

PROC = Path("/proc")
_START_TIME = 22 - 3  # proc_pid_stat(5), counted from the state, which follows the name


class Life(Struct, frozen=True):
    """A process's number in the guest, and what no other process, and no other program, has."""

    pid: str
    mark: bytes


Lives = Mapping[str, Life]  # by the numbers inside the container


def lives_of(processes: Iterable[str]) -> Lives:
    """Of processes by their numbers in the guest. Who goes away meanwhile is left out."""
    found = {}
    for pid in processes:
        with suppress(FileNotFoundError, ProcessLookupError):
            found[_inner_number(PROC / pid)] = Life(pid, _mark(PROC / pid))
    return found


def forget_strangers(copy: Path, before: Lives, now: Lives) -> None:
    """Let CRIU find nothing in this copy of who was not the same when it was made."""
    for page_map in copy.glob("pagemap-*.img"):
        number = page_map.stem.removeprefix("pagemap-")
        if number not in before or before[number] != now.get(number):
            page_map.unlink()


def _mark(process: Path) -> bytes:
    """When it began, and the kernel's gifts to its program: 16 random bytes, addresses."""
    stat = (process / "stat").read_text(errors="replace")
    start = stat[stat.rindex(")") + 2 :].split()[_START_TIME]
    return hashlib.sha256(f"{start} ".encode() + (process / "auxv").read_bytes()).digest()


def _inner_number(process: Path) -> str:
    for line in (process / "status").read_text(errors="replace").splitlines():
        if line.startswith("NSpid:"):
            return line.split()[-1]
    raise SevforkError("the kernel does not tell a process's number in the container")
