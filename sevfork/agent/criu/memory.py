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
# runc and CRIU (measured in a child: 40 MiB), and what the workload takes meanwhile.
RESERVE_BYTES = 64 * 2**20
_LOOK_EVERY_BYTES = 8 * 2**20
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
    wanted, available = min(held, WINDOW_BYTES) + RESERVE_BYTES, available_bytes()
    if available < wanted:
        figures = f"{wanted >> 20} MiB have to be free in it, and {available >> 20} are"
        raise RefusedByGuest(
            f"{TOO_LITTLE_MEMORY.reason}: {figures}", hint=TOO_LITTLE_MEMORY.advice
        )


def is_short() -> bool:
    """Whether what is available is down to the reserve."""
    return available_bytes() < RESERVE_BYTES


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
            require_memory(0)
        return self._sink.write(data)
