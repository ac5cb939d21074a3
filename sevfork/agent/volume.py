"""The sealed volume that the host plugs in, found by its serial number and by nothing else."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from sevfork.deadline import Deadline
from sevfork.errors import NotAuthentic
from sevfork.wire.volume_serial import is_serial

SYS_BLOCK = Path("/sys/block")
DEV = Path("/dev")
_POLL_S = 0.05


def find_volume(serial: str, timeout_s: float = 20.0) -> Path:
    """The device node of the virtio disk with this serial; it may be plugged in meanwhile.

    The host names the serial, so only names of sevfork's own form are looked for: never the root.
    Raises NotAuthentic, TimedOut.
    """
    if not is_serial(serial):
        raise NotAuthentic("the volume's serial number is not one of sevfork's")
    absent = f"no volume with serial number '{serial}' appeared in the guest"
    for _ in Deadline.after(timeout_s).poll(_POLL_S, absent):
        for candidate in SYS_BLOCK.glob("vd*/serial"):
            # The host may name a disk by any bytes, and pull it out while it is looked at.
            with suppress(OSError):
                node = DEV / candidate.parent.name
                if candidate.read_bytes().strip() == serial.encode() and not _is_early(node):
                    return node
    raise AssertionError("poll ends by raising")


def _is_early(node: Path) -> bool:
    """A disk is listed a moment before it can be opened (Linux 6.12: device_add, then bdev_add)."""
    try:
        os.close(os.open(node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as exc:
        return exc.errno == errno.ENXIO
    return False
