"""How much of a process's memory was written since CRIU copied it, asked while it runs.

The kernel tells by PAGEMAP_SCAN (Linux 6.7; uapi/linux/fs.h), which CRIU asks too. Shared memory is
left out: a copy before the freeze is of no use for it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from sevfork.agent.criu.page_maps import PAGE_SIZE

PROC = Path("/proc")
_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
_IS_FILE, _IS_SOFT_DIRTY = 1 << 2, 1 << 7
_END_OF_USER_SPACE = (1 << 47) - PAGE_SIZE
_REGIONS = 512


class _Scan(ctypes.Structure):
    """``struct pm_scan_arg``."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "size",
            "flags",
            "start",
            "end",
            "walk_end",
            "vec",
            "vec_len",
            "max_pages",
            "category_inverted",
            "category_mask",
            "category_anyof_mask",
            "return_mask",
        )
    )


class _Region(ctypes.Structure):
    """``struct page_region``."""

    _fields_ = (
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("categories", ctypes.c_uint64),
    )


def dirty_bytes(pid: str, enough: int) -> int:
    """Private memory that a process has written; more than ``enough`` need not be counted.

    Raises OSError if the kernel does not tell. 0 for a process that is gone.
    """
    with suppress(FileNotFoundError, ProcessLookupError):
        descriptor = os.open(PROC / pid / "pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _scan(descriptor, enough)
        finally:
            os.close(descriptor)
    return 0


def _scan(descriptor: int, enough: int) -> int:
    found, start = 0, 0
    regions = (_Region * _REGIONS)()
    while start < _END_OF_USER_SPACE and found < enough:
        scan = _Scan(
            size=ctypes.sizeof(_Scan),
            start=start,
            end=_END_OF_USER_SPACE,
            vec=ctypes.addressof(regions),
            vec_len=_REGIONS,
            category_inverted=_IS_FILE,
            category_mask=_IS_FILE | _IS_SOFT_DIRTY,
            return_mask=_IS_SOFT_DIRTY,
        )
        count = fcntl.ioctl(descriptor, _PAGEMAP_SCAN, scan)
        found += sum(region.end - region.start for region in regions[:count])
        start = scan.walk_end
    return found
