"""Gives back what later copies of memory have replaced.

CRIU looks a page up in the last copy's map, which holds it or says that an earlier copy does, and
so on downwards. What no look-up can reach is a hole in its file from then on: the maps, and so the
places of all other pages, stay. (``criu dedup`` does that too, but keeps what no map mentions any
more: memory that was unmapped, processes that are gone.)
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

from sevfork.agent.container.holes import Range
from sevfork.agent.criu.page_maps import PAGE_SIZE, AddressRange, PageMap, page_maps

_EVERYTHING = (AddressRange(0, 1 << 64),)


def drop_superseded(copies: Sequence[Path]) -> None:
    """``copies``: the last one first, each followed by the one that it builds on."""
    asked: dict[str, Sequence[AddressRange]]
    asked = {page_map.path.name: _EVERYTHING for page_map in page_maps(copies[0])}
    for copy in copies:
        maps = page_maps(copy)
        asked = {
            page_map.path.name: _drop(page_map, asked.get(page_map.path.name, ()))
            for page_map in maps
        }


def _drop(page_map: PageMap, asked: Sequence[AddressRange]) -> Sequence[AddressRange]:
    """Drop what is not asked for; return what is asked for and lies in the copy below."""
    if not asked:
        page_map.pages.unlink(missing_ok=True)
        page_map.path.unlink()
        return ()
    below, dead, place = [], [], 0
    for entry in page_map.entries():
        if entry.held:
            dead += list(_unasked(entry.range, asked, place))
            place += entry.count * PAGE_SIZE
        else:
            below += list(_common(entry.range, asked))
    _punch(page_map.pages, dead)
    return tuple(sorted(below, key=lambda part: part.start))


def _common(addresses: AddressRange, asked: Sequence[AddressRange]) -> Iterator[AddressRange]:
    """What of the addresses is asked for; ``asked`` is in order, and no two overlap."""
    first = max(bisect_right(asked, addresses.start, key=lambda part: part.start) - 1, 0)
    for part in asked[first:]:
        if part.start >= addresses.end:
            return
        common = part.meets(addresses)
        if common is not None:
            yield common


def _unasked(addresses: AddressRange, asked: Sequence[AddressRange], place: int) -> Iterator[Range]:
    """The rest, as ranges of the file in which ``addresses`` begins at ``place``."""
    at = addresses.start
    for part in _common(addresses, asked):
        if part.start > at:
            yield Range(place + at - addresses.start, part.start - at)
        at = part.end
    if at < addresses.end:
        yield Range(place + at - addresses.start, addresses.end - at)


def _punch(pages: Path, dead: Sequence[Range]) -> None:
    if not dead:
        return
    with pages.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        for part in dead:
            memory.madvise(mmap.MADV_REMOVE, part.start, part.size)
