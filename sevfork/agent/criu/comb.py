"""A copy of memory that a restore gives back as it reads it, instead of holding it twice.

CRIU reads what lies together in a copy's file at once, and gives it back to tmpfs when it reads the
next stretch of that file (``process_async_reads`` and ``punch_hole``, criu/pagemap.c). The memory
of one process is one stretch (measured: of 515 MiB, 24 had been given back when the guest was out
of memory). So one page every 2 MiB is put into a small copy that lies above: it is not asked for
below any more, and what is read there comes in stretches of 2 MiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from sevfork.agent.criu.page_maps import PAGE_SIZE, PARENT, PageMap, PageRun, page_maps

STRETCH_PAGES = 512
# Two stretches of each copy of one process's memory are held twice, and the first two copies count.
WINDOW_BYTES = 4 * STRETCH_PAGES * PAGE_SIZE
_WHOLE = ".whole"


def comb(copies: Iterable[Path]) -> None:
    """Make these copies such ones."""
    for directory in copies:
        whole = directory.with_name(directory.name + _WHOLE)
        whole.mkdir(mode=0o700)
        for page_map in page_maps(directory):
            _comb(page_map, whole)
        if (directory / PARENT).is_symlink():
            (directory / PARENT).rename(whole / PARENT)
        (directory / PARENT).symlink_to(f"../{whole.name}")


def _comb(page_map: PageMap, whole: Path) -> None:
    """Put a process's pages into the copy below, and one of each stretch back above it."""
    entries, pages = page_map.entries(), page_map.pages
    below = whole / pages.name
    pages.rename(below)
    page_map.write(whole, entries)
    above = list(_with_place(entries))
    with below.open("rb") as source, pages.open("wb") as target:
        for place, entry in above:
            if entry.held:
                source.seek(place * PAGE_SIZE)
                target.write(source.read(PAGE_SIZE))
    page_map.write(page_map.path.parent, (entry for _, entry in above))


def _with_place(entries: Iterable[PageRun]) -> Iterator[tuple[int, PageRun]]:
    """The upper map's entries, each with the place in the file below of its first page."""
    place = 0
    for entry in entries:
        if not entry.held:
            yield place, entry
            continue
        yield from teeth_and_gaps(entry, place)
        place += entry.count


def teeth_and_gaps(entry: PageRun, place: int) -> Iterator[tuple[int, PageRun]]:
    """One entry, of which the first page lies at ``place`` in its file: what a copy above holds.

    The pages at every multiple of a stretch, and not what is between them.
    """
    at, end = 0, entry.count
    while at < end:
        is_tooth = (place + at) % STRETCH_PAGES == 0
        to_next = STRETCH_PAGES - (place + at) % STRETCH_PAGES
        count = 1 if is_tooth else min(to_next, end - at)
        yield place + at, PageRun(entry.address + at * PAGE_SIZE, count, held=is_tooth)
        at += count
