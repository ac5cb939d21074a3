"""Reads the streams of a chain of captures (``archive.py``), one on top of the other."""

from __future__ import annotations

import base64
import itertools
import os
import stat
import tarfile
from pathlib import Path

from msgspec import Struct, field

from sevfork.agent.container import inodes
from sevfork.agent.container.archive import (
    ATTRIBUTE,
    DATA,
    END,
    INODES,
    MTIME,
    OFFSET,
    REMOVED,
    SIZE,
    STEP,
    TYPES,
)
from sevfork.agent.container.forward import ForwardFile
from sevfork.agent.container.holes import Range, write_at
from sevfork.agent.container.tree import new_file, parent_of, remove
from sevfork.agent.engine import Source
from sevfork.errors import NotAuthentic


class Unpacker(Struct, frozen=True):
    """Reads streams into two directories, which exist and are empty before the first."""

    images: Path
    files: Path
    _directory_times: dict[str, int] = field(default_factory=dict)
    _touched: set[str] = field(default_factory=set)
    _names: list[inodes.Name] = field(default_factory=list)

    def read(self, source: Source) -> list[inodes.Name]:
        """Read to the end of the source; return the names of all files with their inode numbers.

        Raise NotAuthentic if the stream is not one of ours, or not one that can follow.
        """
        last, stream = None, ForwardFile(source)
        try:
            with stream.archive() as archive:
                for member in archive:
                    last = member.name
                    self._take(stream, member)
        except (tarfile.TarError, ValueError, KeyError, OverflowError) as exc:
            raise NotAuthentic("the capture is not well formed") from exc
        _expect_no_more(stream)
        if last != END:
            raise NotAuthentic("the capture ends too early")
        self._set_directory_times()
        return self._names

    def _take(self, stream: ForwardFile, member: tarfile.TarInfo) -> None:
        top, _, path = member.name.partition("/")
        if top == "files":
            _place(stream, member, self.files, path)
            self._touched.update((path, _above(path)))
            if member.isdir():
                self._directory_times[path] = int(member.pax_headers[MTIME])
        elif top == "images":
            _place(stream, member, self.images, path)
        elif member.name == REMOVED:
            self._remove(_content(stream, member))
        elif member.name == INODES:
            self._names[:] = inodes.decode(_content(stream, member))
        elif member.name != END:
            raise NotAuthentic(f"the capture has a member '{member.name}'")

    def _remove(self, names: bytes) -> None:
        for name in map(os.fsdecode, names.split(b"\0")[:-1]):
            with parent_of(self.files, name) as (directory, last):
                remove(directory, last)
            self._directory_times.pop(name, None)
            self._touched.add(_above(name))

    def _set_directory_times(self) -> None:
        """Last of all, since making a file in a directory changes the directory's time."""
        for path in self._touched & self._directory_times.keys():
            times = (self._directory_times[path],) * 2
            if path == ".":
                os.utime(self.files, ns=times)
                continue
            with parent_of(self.files, path) as (directory, name):
                os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
        self._touched.clear()


def _above(path: str) -> str:
    return path.rpartition("/")[0] or "."


def _expect_no_more(stream: ForwardFile) -> None:
    while rest := stream.read(STEP):
        if rest.strip(b"\0"):
            raise NotAuthentic("the capture goes on after its end")


def _content(stream: ForwardFile, member: tarfile.TarInfo) -> bytes:
    if not member.isreg():
        raise NotAuthentic(f"the capture's '{member.name}' is not a file")
    return stream.content(member)


def _place(stream: ForwardFile, member: tarfile.TarInfo, root: Path, path: str) -> None:
    if path == ".":
        _describe(member, f"{root}")
        return
    with parent_of(root, path, create=True) as (directory, name):
        real_path = f"/proc/self/fd/{directory}/{name}"
        if member.pax_headers.get(OFFSET, "0") != "0":
            _append_part(stream, member, directory, name)
            return
        _make(stream, member, root, directory, name)
        if member.type != tarfile.LNKTYPE:
            _describe(member, real_path)


def _make(
    stream: ForwardFile, member: tarfile.TarInfo, root: Path, directory: int, name: str
) -> None:
    """Make the node itself, in place of what has the name; a directory keeps what it holds."""
    if member.isdir():
        _make_directory(directory, name)
        return
    remove(directory, name)
    if member.isreg():
        _write(stream, member, directory, name)
    elif member.issym():
        os.symlink(member.linkname, name, dir_fd=directory)
    elif member.islnk():
        with parent_of(root, member.linkname.partition("/")[2]) as (other, other_name):
            os.link(other_name, name, src_dir_fd=other, dst_dir_fd=directory, follow_symlinks=False)
    else:
        device = os.makedev(member.devmajor, member.devminor)
        kind = {value: key for key, value in TYPES.items()}[member.type]
        os.mknod(name, kind | 0o600, device, dir_fd=directory)


def _make_directory(directory: int, name: str) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=directory)
    except FileExistsError:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=directory)
            os.mkdir(name, 0o700, dir_fd=directory)


def _write(stream: ForwardFile, member: tarfile.TarInfo, directory: int, name: str) -> None:
    (size, ranges), place = _stored(member), member.offset_data
    with new_file(directory, name, size) as target:
        for part in ranges:
            _copy(stream, Range(place, part.size), target, part.start)
            place += part.size


def _append_part(stream: ForwardFile, member: tarfile.TarInfo, directory: int, name: str) -> None:
    """One more part of a file that the stream has begun. Raise NotAuthentic if it is another."""
    descriptor = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        start = os.fstat(descriptor).st_size
        if member.pax_headers[OFFSET] != str(start):
            raise NotAuthentic(f"the capture's '{member.name}' has a part that does not follow")
        _copy(stream, Range(member.offset_data, member.size), descriptor, start)
    finally:
        os.close(descriptor)


def _copy(stream: ForwardFile, part: Range, target: int, place: int) -> None:
    """A part of the stream to a place in a file."""
    for piece in stream.pieces(part.start, part.size):
        write_at(target, piece, place)
        place += len(piece)


def _describe(member: tarfile.TarInfo, path: str) -> None:
    """Owner, mode, attributes, time, in the order in which none undoes another."""
    os.chown(path, member.uid, member.gid, follow_symlinks=False)
    if not member.issym():
        Path(path).chmod(member.mode)
    for key, value in member.pax_headers.items():
        if key.startswith(ATTRIBUTE):
            name = bytes.fromhex(key.removeprefix(ATTRIBUTE))
            os.setxattr(path, name, base64.b64decode(value), follow_symlinks=False)
    if MTIME in member.pax_headers:
        time_ns = int(member.pax_headers[MTIME])
        os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)


def _stored(member: tarfile.TarInfo) -> tuple[int, list[Range]]:
    """A file's size, and the ranges that the member holds. Raise NotAuthentic if they disagree."""
    if SIZE not in member.pax_headers:
        return member.size, [Range(0, member.size)] if member.size else []
    size = int(member.pax_headers[SIZE])
    words = [word.split(",") for word in member.pax_headers[DATA].split()]
    ranges = [Range(int(start), int(length)) for start, length in words]
    # The end of the file follows as a range of its own, to be in order as well.
    pairs = itertools.pairwise([Range(0, 0), *ranges, Range(size, 0)])
    in_order = all(before.end <= part.start for before, part in pairs)
    stored = sum(part.size for part in ranges)
    if not in_order or any(part.size <= 0 for part in ranges) or stored != member.size:
        raise NotAuthentic("the capture has a file whose size is not what it says")
    return size, ranges
