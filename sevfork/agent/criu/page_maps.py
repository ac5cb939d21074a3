"""CRIU's page maps: which pages of a process lie in a copy of its memory, and where.

Format: CRIU's ``images/pagemap.proto``. ``pages-N.img`` holds the pages of all entries of its page
map that are present, in order and with nothing between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from sevfork.agent.criu import images, rpc
from sevfork.errors import NotAuthentic

PAGE_SIZE = 4096
PARENT = "parent"  # CRIU's link from a copy to the one that it builds on
_PAGEMAP_MAGIC = 0x56084025
_HEAD_PAGES_ID = 1
_ADDRESS, _COMPAT_COUNT, _IN_PARENT, _FLAGS, _COUNT = 1, 2, 3, 4, 5
_PARENT, _PRESENT = 1 << 0, 1 << 2


class AddressRange(Struct, frozen=True):
    """Addresses from ``start`` up to, and not with, ``end``."""

    start: int
    end: int

    def meets(self, other: AddressRange) -> AddressRange | None:
        start, end = max(self.start, other.start), min(self.end, other.end)
        return AddressRange(start, end) if start < end else None


class PageRun(Struct, frozen=True):
    """Pages from ``address`` on: held by this copy, or by an earlier one."""

    address: int
    count: int
    held: bool

    @classmethod
    def parse(cls, message: bytes) -> PageRun:
        fields = rpc.decode(message)
        count = fields.get(_COUNT, fields.get(_COMPAT_COUNT, 0))
        # Written before CRIU had flags: held unless it is the parent's.
        by_default = 0 if rpc.number(fields.get(_IN_PARENT, 0)) else _PRESENT
        flags = rpc.number(fields.get(_FLAGS, by_default))
        return cls(
            rpc.number(fields.get(_ADDRESS, 0)), rpc.number(count), flags & _PRESENT == _PRESENT
        )

    def encode(self) -> bytes:
        """As CRIU writes it: 32 bits would be too few for the count, but have to be there."""
        flags = _PRESENT if self.held else _PARENT
        fields = {_ADDRESS: self.address, _COMPAT_COUNT: 0, _FLAGS: flags, _COUNT: self.count}
        return rpc.encode(fields)

    @property
    def range(self) -> AddressRange:
        return AddressRange(self.address, self.address + self.count * PAGE_SIZE)


class PageMap(Struct, frozen=True):
    """One process's page map in one copy. Reading raises NotAuthentic for what is none."""

    path: Path

    @classmethod
    def create(cls, path: Path, pages_id: int, entries: Iterable[PageRun]) -> PageMap:
        """A new one, whose pages are in ``pages-ID.img`` of the same copy."""
        head = rpc.encode({_HEAD_PAGES_ID: pages_id})
        images.write(path, _PAGEMAP_MAGIC, [head, *(entry.encode() for entry in entries)])
        return cls(path)

    @property
    def pages(self) -> Path:
        """The file that holds the pages."""
        return self.path.parent / f"pages-{self.pages_id}.img"

    @property
    def pages_id(self) -> int:
        return rpc.number(rpc.decode(self._messages()[0]).get(_HEAD_PAGES_ID, 0))

    def entries(self) -> list[PageRun]:
        _head, *entries = self._messages()
        return [PageRun.parse(message) for message in entries]

    def held(self) -> Iterator[AddressRange]:
        """The addresses whose pages lie in this copy, in the order of the file."""
        return (entry.range for entry in self.entries() if entry.held)

    def write(self, directory: Path, entries: Iterable[PageRun]) -> None:
        """The same map, in another copy and with other entries."""
        self.create(directory / self.path.name, self.pages_id, entries)

    def remove(self) -> None:
        self.pages.unlink(missing_ok=True)
        self.path.unlink()

    def _messages(self) -> list[bytes]:
        found = images.messages(self.path.read_bytes(), _PAGEMAP_MAGIC)
        if not found:
            raise NotAuthentic("one of CRIU's page maps has no head")
        return found


def page_maps(copy: Path, pid: str = "*") -> list[PageMap]:
    """Those in one copy, of every process or of one."""
    return [PageMap(path) for path in sorted(copy.glob(f"pagemap-{pid}.img"))]
