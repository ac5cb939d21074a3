"""Which parts of a file are stored, so that what is not stays so."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator, Sequence

from msgspec import Struct

_STEP = 1 << 20


class Range(Struct, frozen=True):
    """``size`` bytes at ``start``."""

    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


def data_ranges(descriptor: int, size: int) -> list[Range]:
    """What is stored of a file's first ``size`` bytes, in order (lseek(2), SEEK_DATA)."""
    ranges, position = [], 0
    while position < size:
        start = _seek_data(descriptor, position)
        if start is None or start >= size:
            break
        position = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        ranges.append(Range(start, position - start))
    return ranges


def _seek_data(descriptor: int, position: int) -> int | None:
    try:
        return os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError as exc:
        if exc.errno == errno.ENXIO:  # nothing but a hole from here on
            return None
        raise


def pieces(descriptor: int, ranges: Sequence[Range]) -> Iterator[bytes]:
    """The ranges' bytes; zeros for what a file that has shrunk meanwhile does not have."""
    for part in ranges:
        for start in range(part.start, part.end, _STEP):
            size = min(_STEP, part.end - start)
            yield os.pread(descriptor, size, start).ljust(size, b"\0")


def move(source: int, target: int, ranges: Sequence[tuple[Range, int]]) -> None:
    """Move each range to its place in the target.

    From the last to the first, the source cut off behind: little is in memory twice.
    """
    start = cut = os.fstat(source).st_size
    for part, place in reversed(ranges):
        for offset in reversed(range(0, part.size, _STEP)):
            start, size = part.start + offset, min(_STEP, part.size - offset)
            write_at(target, os.pread(source, size, start), place + offset)
            if cut - start >= _STEP:
                os.ftruncate(source, cut := start)
    os.ftruncate(source, start)


def punch(descriptor: int, part: Range) -> None:
    """Make a hole of whole pages that the file has."""
    with mmap.mmap(descriptor, part.size, offset=part.start) as memory:
        memory.madvise(mmap.MADV_REMOVE)


def write_at(descriptor: int, data: bytes | memoryview, place: int) -> None:
    """All of it: pwrite(2) may write less."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, place)
        view, place = view[written:], place + written
