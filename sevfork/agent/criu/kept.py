"""What stays in the guest of a capture, so that the next one can be of what has changed since.

Of CRIU's copies that is the last one, and of that one the page maps and what CRIU reads of an
earlier inventory. When it makes a copy it looks for each page that is unchanged in the map of the
copy before, and no further: an entry there may say that the page lies in an earlier copy still, and
that one need not exist (page-xfer.c of CRIU 4.2, ``check_pagehole_in_parent``). It opens files with
pages, and takes a missing one for an empty one (image.c, ``open_image_at``).

Page maps of shared memory are not kept. CRIU tells what was dirtied by the page tables of those who
have it mapped, and so does not see what was written with write(2), or by who has unmapped it since.
Without CRIU_TRACK_SHMEM in its environment it does not try (shmem.c), and without an earlier map it
cannot: shared memory is whole in each update, as are memfds and deleted files.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from sevfork.agent.container.layer import LayerCopy
from sevfork.agent.criu.lives import Lives

_WANTED = ("pagemap-", "inventory.img")
_SHARED = "pagemap-shmem-"
# Where files that are watched with inotify lie: found by searching, so kept (irmap.c).
_WATCHED = "irmap-cache.img"
_BLOCK = 512


class Copy(Struct, frozen=True):
    """One of CRIU's copies, by the name of its directory; who was copied."""

    name: str
    lives: Lives


class Base(Struct, frozen=True):
    """What a capture builds on. ``layer`` is its own number; 0, without a copy, begins a chain.

    ``incarnation`` is the container's: another one has nothing in common with it.
    """

    files: LayerCopy
    incarnation: tuple[int, int]
    layer: int = 0
    copy: Copy | None = None


class Kept(Struct, frozen=True):
    """A base for the next capture, whose copy lies in ``place`` until then."""

    base: Base
    place: Path

    @classmethod
    def take(cls, base: Base, last: Copy, scratch: Path, place: Path) -> Kept:
        """What is to be kept of the last copy, out of ``scratch``, after a capture on ``base``."""
        target = place / last.name
        target.mkdir(parents=True)
        for path in (scratch / last.name).iterdir():
            if path.name.startswith(_WANTED) and not path.name.startswith(_SHARED):
                path.rename(target / path.name)
        watched = sorted(scratch.glob(f"*/{_WATCHED}"), key=lambda path: path.stat().st_mtime_ns)
        if watched:
            watched[-1].rename(target / _WATCHED)
        base.files.keep()
        return cls(Base(base.files, base.incarnation, base.layer + 1, last), place)

    def give(self, scratch: Path) -> Base:
        """Move the copy to where the next ones will lie beside it."""
        for copy in self.place.iterdir():
            copy.rename(scratch / copy.name)
        return self.base

    @property
    def size_bytes(self) -> int:
        """The guest memory that it takes."""
        files = (path.stat().st_blocks * _BLOCK for path in self.place.rglob("*.img"))
        return sum(files) + self.base.files.kept_bytes
