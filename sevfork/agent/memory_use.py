"""How much state this guest holds, as the kernel counts it: what a capture may have to write."""

from __future__ import annotations

import re
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
# Memory of processes, and files on tmpfs. The agent's own is in it: a few tens of MiB too many.
_HELD = re.compile(r"^(?:AnonPages|Shmem): +([0-9]+) kB$", re.M)


def state_bytes() -> int:
    """At most about this much; it changes while the workload runs."""
    return sum(int(kilobytes) for kilobytes in _HELD.findall(MEMINFO.read_text())) * 1024
