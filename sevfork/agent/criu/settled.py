"""All memory of the layers so far, each page once and where the next layer's will find it.

CRIU looks a page up in the last copy's map, which holds it or says that an earlier copy does, and
so on downwards. With each layer the maps get longer: a restore of 100 MiB of which a fifth had been
written here and there in eight updates took four times as long (measured). So the copies are made
one: a file for each process, in which a page's place is its address. It has holes for all that is
not there, and its map is one entry for every address; what is asked for, the last copy's map says,
which is then as short as the process's list of mappings. A page that has changed takes the place of
the one before, and what is not mapped any more becomes a hole.

CRIU gives such a file back while it reads it, if what lies together is not read at once: for that
one page of each stretch is in the last copy instead (``comb.py``).
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sevfork.agent.container.holes import Range, data_ranges, move, punch
from sevfork.agent.criu.comb import teeth_and_gaps
from sevfork.agent.criu.page_maps import (
    PAGE_SIZE,
    PARENT,
    AddressRange,
    PageMap,
    PageRun,
    page_maps,
)

# More than the 56 bits of an address space with five levels of page tables.
_ALL = PageRun(0, 1 << 44, held=True)


def settle(copies: Sequence[Path], place: Path) -> None:
    """Move what the copies hold into ``place``, on which the last one builds then, alone.

    ``copies``: the last one first, each followed by the one that it builds on; ``place`` is the
    earliest if there was something before. What was not the last copy is gone.
    """
    place.mkdir(exist_ok=True, mode=0o700)
    last = copies[0]
    maps = page_maps(last)
    for page_map in maps:
        _settle(page_map, copies, place)
    for left in page_maps(place):
        if left.path.name not in {page_map.path.name for page_map in maps}:
            left.remove()
    (last / PARENT).unlink(missing_ok=True)
    (last / PARENT).symlink_to(f"../{place.name}")
    for copy in copies[1:]:
        if copy != place:
            shutil.rmtree(copy)


def _settle(last: PageMap, copies: Sequence[Path], place: Path) -> None:
    """One process: a copy that has no map of it ends what its later ones build on."""
    name = last.path.name
    building = list(itertools.takewhile(lambda copy: (copy / name).exists(), copies))
    settled = PageMap(place / name)
    if place in building:
        building.remove(place)
    else:
        settled = _begin(settled)
    runs = list(_joined(last.entries()))
    with _opened(settled.pages) as target:
        for copy in reversed(building):
            _move(PageMap(copy / name), target)
        _drop_all_but([run.range for run in runs], target)
        _write_last(last, runs, target)


def _begin(settled: PageMap) -> PageMap:
    """Nothing of a process yet."""
    if settled.path.exists():
        settled.remove()
    taken = (page_map.pages_id for page_map in page_maps(settled.path.parent))
    created = PageMap.create(settled.path, max(taken, default=0) + 1, (_ALL,))
    created.pages.touch(mode=0o600)
    return created


def _joined(entries: Iterable[PageRun]) -> Iterator[PageRun]:
    """What lies at addresses next to each other, as one entry that an earlier copy holds."""
    current: PageRun | None = None
    for entry in entries:
        if current is not None and current.range.end == entry.address:
            current = PageRun(current.address, current.count + entry.count, held=False)
            continue
        if current is not None:
            yield current
        current = PageRun(entry.address, entry.count, held=False)
    if current is not None:
        yield current


def _move(page_map: PageMap, target: int) -> None:
    """Write what a copy holds to its addresses."""
    parts, at = [], 0
    for held in page_map.held():
        parts.append((Range(at, held.end - held.start), held.start))
        at += held.end - held.start
    with _opened(page_map.pages) as source:
        move(source, target, parts)


def _drop_all_but(asked: Sequence[AddressRange], target: int) -> None:
    """Make holes of what no map asks for any more; ``asked`` is in order."""
    left = iter((*asked, AddressRange(_ALL.range.end, _ALL.range.end)))
    part = next(left)
    for stored in data_ranges(target, os.fstat(target).st_size):
        at = stored.start
        while at < stored.end:
            while part.end <= at:
                part = next(left)
            if at < part.start:
                punch(target, Range(at, min(part.start, stored.end) - at))
            at = min(part.end, stored.end) if part.start < stored.end else stored.end


def _write_last(last: PageMap, runs: Iterable[PageRun], settled: int) -> None:
    """The map that says what is there; one page of each stretch is held by it."""
    pieces = [piece for run in runs for _, piece in teeth_and_gaps(run, run.address // PAGE_SIZE)]
    with last.pages.open("wb") as pages:
        for piece in pieces:
            if piece.held:
                pages.write(os.pread(settled, PAGE_SIZE, piece.address))
    last.write(last.path.parent, pieces)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
