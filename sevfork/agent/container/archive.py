"""The stream of a capture: a tar stream (pax) of CRIU's images and of the container's files.

Members, in order; a later one replaces an earlier one of the same name:

    images/<n>/...          memory of the n-th copy made while the workload ran
    files/...               the overlay's upper layer, while the workload ran
    images/last/...         everything else of the frozen workload
    removed                 names, each ended by a zero byte, that ``files`` has no more
    files/...               what changed in the upper layer until the freeze
    inodes                  the inode number of every name in ``files`` (``inodes.py``)
    end                     empty: nothing after it

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
import itertools
import mmap
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from sevfork.agent.container import inodes
from sevfork.agent.container.holes import Range, data_ranges, pieces, write_at
from sevfork.agent.container.tree import Node, new_file, parent_of, remove
from sevfork.agent.engine import Sink, Source
from sevfork.errors import NotAuthentic

END = "end"
REMOVED = "removed"
INODES = "inodes"
_ATTRIBUTE = "SEVFORK.xattr."
_MTIME = "SEVFORK.mtime_ns"
_SIZE, _DATA = "SEVFORK.size", "SEVFORK.data"
_OFFSET = "SEVFORK.offset"
_BLOCK = tarfile.BLOCKSIZE
_STEP = 1 << 20  # measured under TCG: many small writes cost 20 times the throughput
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


@dataclass
class Packer:
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
        kind = _TYPES.get(stat.S_IFMT(node.status.st_mode))
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
        member.pax_headers = {_OFFSET: str(part.start)}
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
        for start in range(0, count, _STEP):
            self.sink.write(bytes(min(_STEP, count - start)))


def _member(name: str, node: Node, kind: bytes) -> tarfile.TarInfo:
    status = node.status
    member = tarfile.TarInfo(name)
    member.type = kind
    member.mode = stat.S_IMODE(status.st_mode)
    member.uid, member.gid = status.st_uid, status.st_gid
    member.pax_headers = {_MTIME: str(status.st_mtime_ns)}
    for attribute, value in node.attributes().items():
        key = _ATTRIBUTE + os.fsencode(attribute).hex()
        member.pax_headers[key] = base64.b64encode(value).decode()
    if kind == tarfile.SYMTYPE:
        member.linkname = node.link_target()
    if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        member.devmajor, member.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    return member


def _with_holes(ranges: Sequence[Range], size: int) -> dict[str, str]:
    """What is said of a file that is not stored whole: its size, and what the member holds."""
    numbers = (f"{part.start},{part.size}" for part in ranges)
    return {_SIZE: str(size), _DATA: " ".join(numbers)}


def _stored(member: tarfile.TarInfo) -> tuple[int, list[Range]]:
    """A file's size, and the ranges that the member holds. Raise NotAuthentic if they disagree."""
    if _SIZE not in member.pax_headers:
        return member.size, [Range(0, member.size)] if member.size else []
    size = int(member.pax_headers[_SIZE])
    words = [word.split(",") for word in member.pax_headers[_DATA].split()]
    ranges = [Range(int(start), int(length)) for start, length in words]
    # The end of the file follows as a range of its own, to be in order as well.
    pairs = itertools.pairwise([Range(0, 0), *ranges, Range(size, 0)])
    in_order = all(before.end <= part.start for before, part in pairs)
    stored = sum(part.size for part in ranges)
    if not in_order or any(part.size <= 0 for part in ranges) or stored != member.size:
        raise NotAuthentic("the capture has a file whose size is not what it says")
    return size, ranges


def _drain(path: Path, part: Range) -> Iterator[bytes]:
    """A part of a file; what was yielded is punched out of tmpfs (MADV_REMOVE)."""
    if not part.size:
        return
    with path.open("r+b") as file, mmap.mmap(file.fileno(), part.end) as pages:
        for start in range(part.start, part.end, _STEP):
            end = min(start + _STEP, part.end)
            yield pages[start:end]
            pages.madvise(mmap.MADV_REMOVE, start, end - start)


@dataclass(frozen=True)
class Unpacker:
    """Reads a stream into two directories, which exist and are empty."""

    images: Path
    files: Path
    _directory_times: dict[str, int] = field(default_factory=dict)
    _names: list[inodes.Name] = field(default_factory=list)

    def read(self, source: Source) -> list[inodes.Name]:
        """Read to the end of the source; return the names of all files with their inode numbers.

        Raise NotAuthentic if the stream is not one of ours.
        """
        last = None
        try:
            with _opened(source) as archive:
                for member in archive:
                    last = member.name
                    self._take(archive, member)
        except (tarfile.TarError, ValueError, KeyError, OverflowError) as exc:
            raise NotAuthentic("the capture is not well formed") from exc
        _expect_no_more(source)
        if last != END:
            raise NotAuthentic("the capture ends too early")
        self._set_directory_times()
        return self._names

    def _take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        top, _, path = member.name.partition("/")
        if top == "files":
            _place(archive, member, self.files, path)
            if member.isdir():
                self._directory_times[path] = int(member.pax_headers[_MTIME])
        elif top == "images":
            _place(archive, member, self.images, path)
        elif member.name == REMOVED:
            self._remove(_content(archive, member))
        elif member.name == INODES:
            self._names[:] = inodes.decode(_content(archive, member))
        elif member.name != END:
            raise NotAuthentic(f"the capture has a member '{member.name}'")

    def _remove(self, names: bytes) -> None:
        for name in names.split(b"\0")[:-1]:
            with parent_of(self.files, os.fsdecode(name)) as (directory, last):
                remove(directory, last)
            self._directory_times.pop(os.fsdecode(name), None)

    def _set_directory_times(self) -> None:
        """Last of all, since making a file in a directory changes the directory's time."""
        for path, time_ns in self._directory_times.items():
            times = (time_ns, time_ns)
            if path == ".":
                os.utime(self.files, ns=times)
                continue
            with parent_of(self.files, path) as (directory, name):
                os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)


@contextmanager
def _opened(source: Source) -> Iterator[tarfile.TarFile]:
    with tarfile.open(
        fileobj=cast(IO[bytes], source),
        mode="r|",
        bufsize=_STEP,
        encoding="utf-8",
        errors="surrogateescape",
    ) as archive:
        yield archive


def _expect_no_more(source: Source) -> None:
    while rest := source.read(_STEP):
        if rest.strip(b"\0"):
            raise NotAuthentic("the capture goes on after its end")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    if file is None:
        raise NotAuthentic(f"the capture's '{member.name}' is not a file")
    return file.read()


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path, path: str) -> None:
    if path == ".":
        _describe(member, f"{root}")
        return
    with parent_of(root, path, create=True) as (directory, name):
        real_path = f"/proc/self/fd/{directory}/{name}"
        if member.pax_headers.get(_OFFSET, "0") != "0":
            _append_part(archive, member, directory, name)
            return
        _make(archive, member, root, directory, name)
        if member.type != tarfile.LNKTYPE:
            _describe(member, real_path)


def _make(
    archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path, directory: int, name: str
) -> None:
    """Make the node itself, in place of what has the name; a directory keeps what it holds."""
    if member.isdir():
        _make_directory(directory, name)
        return
    remove(directory, name)
    if member.isreg():
        _write(archive, member, directory, name)
    elif member.issym():
        os.symlink(member.linkname, name, dir_fd=directory)
    elif member.islnk():
        with parent_of(root, member.linkname.partition("/")[2]) as (other, other_name):
            os.link(other_name, name, src_dir_fd=other, dst_dir_fd=directory, follow_symlinks=False)
    else:
        device = os.makedev(member.devmajor, member.devminor)
        kind = {value: key for key, value in _TYPES.items()}[member.type]
        os.mknod(name, kind | 0o600, device, dir_fd=directory)


def _make_directory(directory: int, name: str) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=directory)
    except FileExistsError:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=directory)
            os.mkdir(name, 0o700, dir_fd=directory)


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, directory: int, name: str) -> None:
    content, (size, ranges) = archive.extractfile(member), _stored(member)
    if content is None:
        raise NotAuthentic("the capture has a file without content")
    with new_file(directory, name, size) as target:
        for part in ranges:
            for start in range(part.start, part.end, _STEP):
                write_at(target, content.read(min(_STEP, part.end - start)), start)


def _append_part(
    archive: tarfile.TarFile, member: tarfile.TarInfo, directory: int, name: str
) -> None:
    """One more part of a file that the stream has begun. Raise NotAuthentic if it is another."""
    descriptor = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        start = os.fstat(descriptor).st_size
        if member.pax_headers[_OFFSET] != str(start):
            raise NotAuthentic(f"the capture's '{member.name}' has a part that does not follow")
        content = archive.extractfile(member)
        while content is not None and (piece := content.read(_STEP)):
            write_at(descriptor, piece, start)
            start += len(piece)
    finally:
        os.close(descriptor)


def _describe(member: tarfile.TarInfo, path: str) -> None:
    """Owner, mode, attributes, time, in the order in which none undoes another."""
    os.chown(path, member.uid, member.gid, follow_symlinks=False)
    if not member.issym():
        Path(path).chmod(member.mode)
    for key, value in member.pax_headers.items():
        if key.startswith(_ATTRIBUTE):
            name = bytes.fromhex(key.removeprefix(_ATTRIBUTE))
            os.setxattr(path, name, base64.b64decode(value), follow_symlinks=False)
    if _MTIME in member.pax_headers:
        time_ns = int(member.pax_headers[_MTIME])
        os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)
