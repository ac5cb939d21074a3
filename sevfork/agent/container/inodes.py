"""Files that have the inode numbers in a child that they had in its parent.

A program may know a file by its device and inode number: SQLite keeps its locks by them, log
shippers and ``tail -F`` ask whether a name still leads to the file that they have open.

tmpfs cannot be told a number. It counts up from 1, for each mount by itself, one with each file
that is made (mm/shmem.c, ``shmem_reserve_inode``). So the layer is a tmpfs of its own, and in a
child what was unpacked moves from another place into a fresh one: in the order of the numbers, with
files that have no name and are gone at once for the numbers that nothing has (measured: 11 us for
each, not emulated). The numbers above the last are free for what is made later.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from sevfork.agent.container.holes import data_ranges, move
from sevfork.agent.container.tree import Node, describe, new_file, parent_of, set_times
from sevfork.errors import NotAuthentic, RefusedByGuest, SevforkError

# The layer's own: its root, and the two directories that an overlay wants.
LARGEST_RESERVED = 3
LARGEST = 4_000_000  # three quarters of a minute to count so far, not emulated
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# Makes one node of that name in the open directory, and nothing else in its file system.
Make = Callable[[int, str], None]


class Name(Struct, frozen=True):
    """One name of an inode: its path relative to the layer."""

    number: int
    path: str


def encode(names: Iterable[Name]) -> bytes:
    """``NUMBER PATH`` and a zero byte for each. Raise RefusedByGuest for too large a number."""
    encoded = bytearray()
    for name in names:
        if name.number > LARGEST:
            raise RefusedByGuest(
                f"the workload has made more than {LARGEST:,} files since the VM was started",
                hint="start the VM anew: a child has to count to the numbers that its files have",
            )
        encoded += b"%d %s\0" % (name.number, os.fsencode(name.path))
    return bytes(encoded)


def decode(content: bytes) -> list[Name]:
    """As they were encoded. Raise NotAuthentic."""
    *records, rest = content.split(b"\0")
    if rest:
        raise NotAuthentic("the capture's inode numbers are cut short")
    names = []
    for record in records:
        number, _, path = record.partition(b" ")
        if not number.isdigit() or not LARGEST_RESERVED < int(number) <= LARGEST:
            raise NotAuthentic("the capture has an inode number that no file can have")
        names.append(Name(int(number), os.fsdecode(path)))
    return names


def fill(layer: Path, unpacked: Path, names: Sequence[Name], deleted: Mapping[Name, Make]) -> None:
    """Move what was unpacked into ``upper`` of a fresh layer; make the deleted files besides.

    ``names`` are all that were unpacked, directories before what they hold.
    """
    makers: dict[int, Make] = {name.number: make for name, make in deleted.items()}
    for name in reversed(names):  # the first name of a number counts
        makers[name.number] = _mover(unpacked, name.path)
    root = os.open(layer, _DIRECTORY)
    try:
        _make_in_order(root, makers)
        for name in (*names, *deleted):
            _put_in_place(root, layer / "upper", name)
        _forget_numbers(root, makers)
    finally:
        os.close(root)
    _describe_directories(unpacked, layer / "upper", names)


def _make_in_order(root: int, makers: Mapping[int, Make]) -> None:
    last = LARGEST_RESERVED
    for number in sorted(makers):
        while last < number - 1:
            last = _use_up(root)
        makers[number](root, str(number))
        last = os.stat(str(number), dir_fd=root, follow_symlinks=False).st_ino
        if last != number:
            raise SevforkError(f"a file of the child has the inode number {last}, not {number}")


def _use_up(root: int) -> int:
    """Make a file that has no name and is gone at once; return the number that it had."""
    descriptor = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=root)
    try:
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def _put_in_place(root: int, upper: Path, name: Name) -> None:
    """Give the node that stands under its number in the layer's root its path."""
    number = str(name.number)
    with parent_of(upper, name.path) as (directory, last):
        if stat.S_ISDIR(os.stat(number, dir_fd=root, follow_symlinks=False).st_mode):
            os.rename(number, last, src_dir_fd=root, dst_dir_fd=directory)
        else:
            os.link(number, last, src_dir_fd=root, dst_dir_fd=directory, follow_symlinks=False)


def _forget_numbers(root: int, numbers: Iterable[int]) -> None:
    for entry in set(os.listdir(root)) & set(map(str, numbers)):  # noqa: PTH208  # a descriptor
        os.unlink(entry, dir_fd=root)


def _mover(unpacked: Path, path: str) -> Make:
    def make(directory: int, name: str) -> None:
        with parent_of(unpacked, path) as (source, last):
            status = os.stat(last, dir_fd=source, follow_symlinks=False)
            _move(Node(path, status, source, last), directory, name)

    return make


def _move(node: Node, directory: int, name: str) -> None:
    status = node.status
    if stat.S_ISREG(status.st_mode):
        _move_file(node, directory, name)
    elif stat.S_ISDIR(status.st_mode):
        os.mkdir(name, 0o700, dir_fd=directory)
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(node.link_target(), name, dir_fd=directory)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=directory)
    describe(f"/proc/self/fd/{directory}/{name}", node)


def _move_file(node: Node, directory: int, name: str) -> None:
    source = os.open(node.name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=node.directory)
    try:
        with new_file(directory, name, node.status.st_size) as target:
            parts = data_ranges(source, node.status.st_size)
            move(source, target, [(part, part.start) for part in parts])
    finally:
        os.close(source)


def _describe_directories(unpacked: Path, upper: Path, names: Sequence[Name]) -> None:
    """Their times last of all, since making a file in a directory changes them."""
    for name in names:
        with parent_of(unpacked, name.path) as (source, last):
            status = os.stat(last, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            with parent_of(upper, name.path) as (directory, last):
                set_times(f"/proc/self/fd/{directory}/{last}", status)
    directory = os.open(unpacked, _DIRECTORY)
    try:
        describe(f"{upper}", Node(".", os.fstat(directory), directory, "."))
    finally:
        os.close(directory)
