"""Whether the guest has the memory for a capture, before the kernel has to kill something.

Pages go out while they are copied (``outflow.py``), so a copy needs a window and not the size of
the workload. So does a restore (``comb.py``), and a child has its parent's memory, so what it will
need is asked for here. Files that changed since they were copied are put aside besides, and how
much that is, is known only while it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sevfork.agent.criu.comb import WINDOW_BYTES
from sevfork.agent.criu.refusal import TOO_LITTLE_MEMORY
from sevfork.agent.engine import Sink
from sevfork.errors import RefusedByGuest

PROC = Path("/proc")
# What counts as available is in part the programs' own pages, which would have to be read from the
# disk again and again; a capture was seen to work down to 8 MiB.
RESERVE_BYTES = 16 * 2**20
# CRIU, and what the agent takes to seal or to unpack (measured: 8 MiB).
PROGRAMS_BYTES = 10 * 2**20
# CRIU makes pipes for all pages of the first copy at once, 64 KiB of kernel memory for each 4 MiB
# (page-pipe.c, ``ppb_alloc``; measured).
_PIPES_PART = 64
_LOOK_EVERY_BYTES = 2**20
# "Anonymous" is what CRIU copies of each process; shared memory it copies once.
_COUNTED = re.compile(rb"^(?:Anonymous|Pss_Shmem): +(\d+) kB$", re.M)
_TOTAL = re.compile(rb"^MemTotal: +(\d+) kB$", re.M)
_AVAILABLE = re.compile(rb"^MemAvailable: +(\d+) kB$", re.M)


def resident_bytes(processes: Iterable[str]) -> int:
    """What a copy of these processes' memory takes (``/proc/PID/smaps_rollup``)."""
    total = 0
    for pid in processes:
        with suppress(FileNotFoundError, ProcessLookupError):
            total += _kilobytes(_COUNTED, PROC / pid / "smaps_rollup")
    return total * 1024


def require_memory(held: int) -> None:
    """Raise RefusedByGuest unless a workload that holds so much can be captured and restored."""
    _require(RESERVE_BYTES + PROGRAMS_BYTES + held // _PIPES_PART + min(held, WINDOW_BYTES))


def require_window(held: int) -> None:
    """As ``require_memory``, when CRIU is at work already and has copied most of it."""
    _require(RESERVE_BYTES + min(held, WINDOW_BYTES))


def require_room_in_child(copied: int, held: int) -> None:
    """Raise RefusedByGuest unless a child has room for all copies that were made.

    It holds them at once, before it restores: what changed between two copies is in both. ``held``
    is what the workload has here and now, which in a child is room for copies.
    """
    room = held + available_bytes() - RESERVE_BYTES - PROGRAMS_BYTES - WINDOW_BYTES
    if copied > room:
        raise RefusedByGuest(
            "the workload changes too much memory while it is copied: a child would have to hold "
            f"{copied >> 20} MiB at once, and has room for {max(room, 0) >> 20}",
            hint="fork it when it is less busy, or give the VM more memory",
        )


def _require(wanted: int) -> None:
    available = available_bytes()
    if available < wanted:
        figures = f"{wanted >> 20} MiB have to be free in it, and {available >> 20} are"
        raise RefusedByGuest(
            f"{TOO_LITTLE_MEMORY.reason}: {figures}", hint=TOO_LITTLE_MEMORY.advice
        )


def spare_bytes() -> int:
    """What is available and not reserved; less than nothing when memory is short."""
    return available_bytes() - RESERVE_BYTES


def available_bytes() -> int:
    """What the kernel thinks could be had without hurting anybody (``/proc/meminfo``)."""
    return _kilobytes(_AVAILABLE, PROC / "meminfo") * 1024


def total_bytes() -> int:
    """The guest's memory."""
    return _kilobytes(_TOTAL, PROC / "meminfo") * 1024


def _kilobytes(pattern: re.Pattern[bytes], path: Path) -> int:
    return sum(map(int, pattern.findall(path.read_bytes())))


class MemoryGuard:
    """Passes on to a sink on tmpfs as long as there is memory left."""

    def __init__(self, sink: Sink) -> None:
        self._sink, self._unseen = sink, 0

    def write(self, data: bytes, /) -> object:
        """Raise RefusedByGuest when memory runs out."""
        self._unseen += len(data)
        if self._unseen >= _LOOK_EVERY_BYTES:
            self._unseen = 0
            require_window(0)
        return self._sink.write(data)
