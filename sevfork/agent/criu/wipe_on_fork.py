"""Wipe-on-fork pages are zero in a child before anything runs, as the kernel has it for fork(2).

A process marks pages with ``MADV_WIPEONFORK`` that must not exist twice: the state of a random
generator, a key that is to be used once. CRIU carries the mark and the contents alike. So the
contents are overwritten in what CRIU is going to restore.

Formats: CRIU's ``images/{mm,vma,pagemap}.proto``. ``pages-N.img`` holds the pages of all entries of
its page map that are present, in order and with nothing between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sevfork.agent.criu import rpc
from sevfork.agent.criu.images import messages

_PAGE = 4096
_MM_MAGIC = 0x57492820
_PAGEMAP_MAGIC = 0x56084025
_MM_VMAS = 14
_VMA_START, _VMA_END, _VMA_ADVICE = 1, 2, 9
_WIPE_ON_FORK = 1 << 18  # MADV_WIPEONFORK is advice number 18
_HEAD_PAGES_ID = 1
_MAP_ADDRESS, _MAP_COMPAT_COUNT, _MAP_IN_PARENT, _MAP_FLAGS, _MAP_COUNT = 1, 2, 3, 4, 5
_PRESENT = 1 << 2


@dataclass(frozen=True)
class Range:
    """Addresses from ``start`` up to, and not with, ``end``."""

    start: int
    end: int

    def meets(self, other: Range) -> Range | None:
        start, end = max(self.start, other.start), min(self.end, other.end)
        return Range(start, end) if start < end else None


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
            for page_map in sorted(images.glob(f"*/pagemap-{pid}.img")):
                wiped += _wipe_copy(page_map, ranges)
    return wiped


def _marked(image: bytes) -> Iterator[Range]:
    """The mappings of one process that are marked."""
    for message in messages(image, _MM_MAGIC):
        for field, value in rpc.fields(message):
            if field == _MM_VMAS:
                vma = rpc.decode(rpc.blob(value))
                if rpc.number(vma.get(_VMA_ADVICE, 0)) & _WIPE_ON_FORK:
                    yield Range(
                        rpc.number(vma.get(_VMA_START, 0)), rpc.number(vma.get(_VMA_END, 0))
                    )


def _wipe_copy(page_map: Path, ranges: Sequence[Range]) -> int:
    """Zero what one copy of a process's memory holds of the ranges."""
    entries = iter(messages(page_map.read_bytes(), _PAGEMAP_MAGIC))
    pages_id = rpc.number(rpc.decode(next(entries, b"")).get(_HEAD_PAGES_ID, 0))
    wiped, offset = 0, 0
    with (page_map.parent / f"pages-{pages_id}.img").open("r+b") as pages:
        for held in map(_held, entries):
            for part in filter(None, (held.meets(each) for each in ranges)):
                pages.seek(offset + part.start - held.start)
                pages.write(bytes(part.end - part.start))
                wiped += part.end - part.start
            offset += held.end - held.start
    return wiped


def _held(entry: bytes) -> Range:
    """The addresses whose pages lie in this copy; an empty range for what an earlier one holds."""
    fields = rpc.decode(entry)
    start = rpc.number(fields.get(_MAP_ADDRESS, 0))
    count = rpc.number(fields.get(_MAP_COUNT, fields.get(_MAP_COMPAT_COUNT, 0)))
    # Written before CRIU had flags: present unless it is the parent's.
    by_default = 0 if rpc.number(fields.get(_MAP_IN_PARENT, 0)) else _PRESENT
    present = rpc.number(fields.get(_MAP_FLAGS, by_default)) & _PRESENT
    return Range(start, start + count * _PAGE if present else start)
