"""Whether the guest can hold a copy besides the workload, before the kernel has to kill something.

A copy of the memory lies on tmpfs until it has gone out, so at its largest it is what the workload
holds. Only the files that changed since they were copied are put aside besides, and how much that
is, is known only while it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sevfork.agent.criu.refusal import TOO_LITTLE_MEMORY
from sevfork.agent.engine import Sink
from sevfork.errors import RefusedByGuest

PROC = Path("/proc")
RESERVE_BYTES = 32 * 2**20  # CRIU itself, and what the workload takes meanwhile
_LOOK_EVERY_BYTES = 8 * 2**20
# "Anonymous" is what CRIU copies of each process; shared memory it copies once.
_COUNTED = re.compile(rb"^(?:Anonymous|Pss_Shmem): +(\d+) kB$", re.M)
_AVAILABLE = re.compile(rb"^MemAvailable: +(\d+) kB$", re.M)


def resident_bytes(processes: Iterable[str]) -> int:
    """What a copy of these processes' memory takes (``/proc/PID/smaps_rollup``)."""
    total = 0
    for pid in processes:
        with suppress(FileNotFoundError, ProcessLookupError):
            total += _kilobytes(_COUNTED, PROC / pid / "smaps_rollup")
    return total * 1024


def require_memory(wanted: int) -> None:
    """Raise RefusedByGuest unless so much is available, and a reserve besides."""
    if _kilobytes(_AVAILABLE, PROC / "meminfo") * 1024 < wanted + RESERVE_BYTES:
        raise RefusedByGuest(TOO_LITTLE_MEMORY.reason, hint=TOO_LITTLE_MEMORY.advice)


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
