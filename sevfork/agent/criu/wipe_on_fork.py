"""Wipe-on-fork pages are zero in a child before anything runs, as the kernel has it for fork(2).

A process marks pages with ``MADV_WIPEONFORK`` that must not exist twice: the state of a random
generator, a key that is to be used once. CRIU carries the mark and the contents alike. So the
contents are overwritten in what CRIU is going to restore.

Formats: CRIU's ``images/{mm,vma}.proto``, and ``page_maps.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sevfork.agent.container.holes import Range, punch
from sevfork.agent.criu import rpc
from sevfork.agent.criu.images import messages
from sevfork.agent.criu.page_maps import AddressRange, PageMap, page_maps

_MM_MAGIC = 0x57492820
_MM_VMAS = 14
_VMA_START, _VMA_END, _VMA_ADVICE = 1, 2, 9
_WIPE_ON_FORK = 1 << 18  # MADV_WIPEONFORK is advice number 18


def wipe(images: Path, last: str) -> int:
    """Zero them in every copy below ``images``; return how many bytes that were.

    ``last`` is the directory of the final copy, whose mappings hold. Raises NotAuthentic when an
    image is not as CRIU writes it.
    """
    wiped = 0
    for path in sorted((images / last).glob("mm-*.img")):
        ranges = tuple(_marked(path.read_bytes()))
        if ranges:
            pid = path.stem.removeprefix("mm-")
            for copy in sorted(path for path in images.iterdir() if path.is_dir()):
                wiped += sum(_wipe_copy(each, ranges) for each in page_maps(copy, pid))
    return wiped


def _marked(image: bytes) -> Iterator[AddressRange]:
    """The mappings of one process that are marked."""
    for message in messages(image, _MM_MAGIC):
        for field, value in rpc.fields(message):
            if field == _MM_VMAS:
                vma = rpc.decode(rpc.blob(value))
                if rpc.number(vma.get(_VMA_ADVICE, 0)) & _WIPE_ON_FORK:
                    yield AddressRange(
                        rpc.number(vma.get(_VMA_START, 0)), rpc.number(vma.get(_VMA_END, 0))
                    )


def _wipe_copy(page_map: PageMap, ranges: Sequence[AddressRange]) -> int:
    """Make holes, which are zero, of what one copy of a process's memory holds of the ranges.

    A map may name more than its file has (``settled.py``).
    """
    wiped, offset = 0, 0
    with page_map.pages.open("r+b") as pages:
        end = os.fstat(pages.fileno()).st_size
        for held in page_map.held():
            for part in filter(None, (held.meets(each) for each in ranges)):
                start = offset + part.start - held.start
                size = min(part.end - part.start, end - start)
                if size > 0:
                    punch(pages.fileno(), Range(start, size))
                    wiped += size
            offset += held.end - held.start
    return wiped
