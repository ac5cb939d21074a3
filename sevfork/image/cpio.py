"""A cpio archive in the "newc" form, as the kernel unpacks it into its first file system.

Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel. Written here, in
few lines, because order, owners, inode numbers and times must depend on nothing but the content.
GNU cpio was not taken: it takes times and device nodes from a tree on disk, and its
``--reproducible`` fixes only the numbers. The standard library writes tar only, which the kernel
does not unpack.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass

_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """One file: ``mode`` with its type bits, content (a link's target), device numbers."""

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(mode: int = 0o755) -> Entry:
    return Entry(stat.S_IFDIR | mode)


def file(data: bytes, mode: int = 0o644) -> Entry:
    return Entry(stat.S_IFREG | mode, data)


def symlink(target: str) -> Entry:
    return Entry(stat.S_IFLNK | 0o777, target.encode())


def character_device(major: int, minor: int, mode: int = 0o600) -> Entry:
    return Entry(stat.S_IFCHR | mode, device=(major, minor))


def archive(entries: Mapping[str, Entry], mtime_s: int) -> bytes:
    """The archive of entries by path (without a leading slash), sorted, owned by root."""
    records = [
        _record(number, path, entries[path], mtime_s)
        for number, path in enumerate(sorted(entries), start=1)
    ]
    body = b"".join([*records, _record(0, _TRAILER, Entry(0), 0)])
    return body + bytes(-len(body) % 512)


def _record(inode: int, path: str, entry: Entry, mtime_s: int) -> bytes:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    numbers = (
        *(inode, entry.mode, 0, 0, links, mtime_s, len(entry.data)),
        *(0, 0, *entry.device, len(name), 0),
    )
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
    return head + bytes(-len(head) % 4) + entry.data + bytes(-len(entry.data) % 4)
