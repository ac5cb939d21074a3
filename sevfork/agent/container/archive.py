"""The stream of a capture: a tar stream (pax) of CRIU's images and of the container's files.

Members, in order; a later one replaces an earlier one of the same name:

    files/...               the overlay's upper layer, while the workload ran
    images/<k>-<n>/...      memory: the n-th copy of the k-th layer made while the workload ran
    images/<k>-last/...     everything else of the frozen workload
    removed                 names, each ended by a zero byte, that ``files`` has no more
    files/...               what changed in the upper layer until the freeze
    inodes                  the inode number of every name in ``files`` (``inodes.py``)
    end                     empty: nothing after it

Layer 0 is the base of a chain. The stream of a later one is an update: it has what has changed, and
is read on top of those before (``unpacker.py``).

Whiteouts are character devices 0:0, as overlayfs has them. Extended attributes and times are pax
records, hexadecimal names with base64 and integers, because tar's own are text and floating point.
Of a file with holes a member holds what is stored; pax records tell its size and where it belongs.
A file that goes out while it is being written is a member for each part, which says where in the
file it begins.

The headers are the standard library's ``tarfile``. Walking, reading and placing are ours, because
neither ``tarfile.add`` and ``extract`` nor the program ``tar`` stay below a root in which somebody
else moves directories about (``tree.py``), carry on when a file shrinks under them, give pages back
while they read, or know of whiteouts and of nanoseconds.
"""

from __future__ import annotations

import base64
import mmap
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct, field

from sevfork.agent.container.holes import Range, data_ranges, pieces
from sevfork.agent.container.tree import Node
from sevfork.agent.engine import Sink

END = "end"
REMOVED = "removed"
INODES = "inodes"
ATTRIBUTE = "SEVFORK.xattr."
MTIME = "SEVFORK.mtime_ns"
SIZE, DATA = "SEVFORK.size", "SEVFORK.data"
OFFSET = "SEVFORK.offset"
_BLOCK = tarfile.BLOCKSIZE
STEP = 1 << 20  # measured under TCG: many small writes cost 20 times the throughput
TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


class Packer(Struct):
    """Writes members to a sink. ``size_bytes`` counts what is stored of regular files."""

    sink: Sink
    size_bytes: int = 0
    _links: dict[tuple[int, int], str] = field(default_factory=dict)

    def add_content(self, name: str, content: bytes) -> None:
        """A member made of bytes."""
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self._header(member)
        self._body(iter((content,)), member.size)

    def add_node(self, name: str, node: Node) -> None:
        """A file of any kind, with owner, mode, time and attributes. Sockets are left out.

        CRIU makes a socket's name again when it restores the socket.
        """
        kind = TYPES.get(stat.S_IFMT(node.status.st_mode))
        if kind is None:
            return
        member = _member(name, node, kind)
        earlier = self._earlier_name(name, node.status)
        if earlier is not None:
            member.type, member.linkname = tarfile.LNKTYPE, earlier
            self._header(member)
        elif kind == tarfile.REGTYPE:
            self._regular(member, node)
        else:
            self._header(member)
        # Not sooner: a file that went away before it was read is not in the stream.
        self._links.setdefault((node.status.st_dev, node.status.st_ino), name)

    def _earlier_name(self, name: str, status: os.stat_result) -> str | None:
        """The name under which another link to the same inode is in this stream already."""
        if status.st_nlink < 2 or stat.S_ISDIR(status.st_mode):
            return None
        known = self._links.get((status.st_dev, status.st_ino))
        return None if known == name else known

    def _regular(self, member: tarfile.TarInfo, node: Node) -> None:
        """The size is that of the header, even if the file shrinks or grows meanwhile."""
        descriptor = node.open()
        try:
            size = os.fstat(descriptor).st_size
            ranges = data_ranges(descriptor, size)
            member.size = sum(part.size for part in ranges)
            if member.size != size:
                member.pax_headers = {**member.pax_headers, **_with_holes(ranges, size)}
            self._header(member)
            self._body(pieces(descriptor, ranges), member.size)
            self.size_bytes += member.size
        finally:
            os.close(descriptor)

    def add_symbolic_link(self, name: str, target: str) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = tarfile.SYMTYPE, target
        self._header(member)

    def move_in(self, name: str, path: Path) -> None:
        """A file of tmpfs, its pages given back to the guest as they are written.

        The file keeps its size: CRIU opens the pages of an earlier copy, but does not read them,
        when it makes a later one.
        """
        size = path.stat().st_size
        member = tarfile.TarInfo(name)
        member.size = size
        self._header(member)
        self._body(_drain(path, Range(0, size)), size)

    def move_part(self, name: str, path: Path, part: Range) -> None:
        """A part of a file of tmpfs that is still growing, given back like those of ``move_in``.

        It begins where the part before it has ended.
        """
        member = tarfile.TarInfo(name)
        member.size = part.size
        member.pax_headers = {OFFSET: str(part.start)}
        self._header(member)
        self._body(_drain(path, part), part.size)

    def append(self, spool: Path) -> None:
        """The members that another Packer has written to a file of tmpfs, which is emptied."""
        for piece in _drain(spool, Range(0, spool.stat().st_size)):
            self.sink.write(piece)

    def end(self) -> None:
        self.add_content(END, b"")
        self.sink.write(bytes(2 * _BLOCK))

    def _header(self, member: tarfile.TarInfo) -> None:
        self.sink.write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _body(self, pieces: Iterator[bytes], size: int) -> None:
        """Pieces of ``size`` bytes or less, filled up with zeros."""
        left = size
        for piece in pieces:
            self.sink.write(piece)
            left -= len(piece)
        self._zeros(left + -size % _BLOCK)

    def _zeros(self, count: int) -> None:
        for start in range(0, count, STEP):
            self.sink.write(bytes(min(STEP, count - start)))


def _member(name: str, node: Node, kind: bytes) -> tarfile.TarInfo:
    status = node.status
    member = tarfile.TarInfo(name)
    member.type = kind
    member.mode = stat.S_IMODE(status.st_mode)
    member.uid, member.gid = status.st_uid, status.st_gid
    member.pax_headers = {MTIME: str(status.st_mtime_ns)}
    for attribute, value in node.attributes().items():
        key = ATTRIBUTE + os.fsencode(attribute).hex()
        member.pax_headers[key] = base64.b64encode(value).decode()
    if kind == tarfile.SYMTYPE:
        member.linkname = node.link_target()
    if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        member.devmajor, member.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    return member


def _with_holes(ranges: Sequence[Range], size: int) -> dict[str, str]:
    """What is said of a file that is not stored whole: its size, and what the member holds."""
    numbers = (f"{part.start},{part.size}" for part in ranges)
    return {SIZE: str(size), DATA: " ".join(numbers)}


def _drain(path: Path, part: Range) -> Iterator[bytes]:
    """A part of a file; what was yielded is punched out of tmpfs (MADV_REMOVE).

    It is read and not taken from the mapping, because that would hold the interpreter's lock.
    """
    if not part.size:
        return
    with path.open("r+b") as file, mmap.mmap(file.fileno(), part.end) as pages:
        start = part.start
        for piece in pieces(file.fileno(), [part]):
            yield piece
            pages.madvise(mmap.MADV_REMOVE, start, len(piece))
            start += len(piece)
