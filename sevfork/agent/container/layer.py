"""The files that the workload has written: the overlay's upper layer, copied twice.

Once while the workload runs, and, when it is frozen, again whatever has changed since. A file's
change time is what tells; where it cannot, the file is copied again:

- a change within the clock's tick of the first look leaves the same time behind;
- tmpfs sees only the first write to a page through a shared mapping, not those that follow.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sevfork.agent.container import inodes
from sevfork.agent.container.archive import INODES, REMOVED, Packer
from sevfork.agent.container.tree import Node, parent_of, walk
from sevfork.errors import RefusedByGuest

# Kernel timestamps are as coarse as its tick, 10 ms at most (CONFIG_HZ=100); ten of them.
_TICK_NS = 100_000_000
_GONE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENODATA, errno.ESTALE)
# Address, permissions, offset, device, inode, path: proc_pid_maps(5).
_MAPPING = re.compile(r"[0-9a-f-]+ .w.s [0-9a-f]+ [0-9a-f:]+ \d+ +(/.*)", re.S)


@dataclass(frozen=True)
class Look:
    """What a node looked like when it was copied."""

    inode: int
    mode: int
    size: int
    changed_ns: int
    modified_ns: int

    @classmethod
    def at(cls, node: Node) -> Look:
        status = node.status
        return cls(
            status.st_ino, status.st_mode, status.st_size, status.st_ctime_ns, status.st_mtime_ns
        )

    def is_settled(self, since_ns: int) -> bool:
        """Any change after ``since_ns`` is sure to leave another time behind."""
        return max(self.changed_ns, self.modified_ns) < since_ns - _TICK_NS


@dataclass
class LayerCopy:
    """Copies the layer at ``root``; remembers what it has copied.

    ``mapped``, in both copies, are the inodes of files that somebody has mapped shared and
    writable. Whoever maps a file later than that changes its time by the first write.
    """

    root: Path
    _seen: dict[str, Look | None] = field(default_factory=dict)

    def copy_running(self, packer: Packer, mapped: Callable[[], Set[int]]) -> None:
        """Copy everything, while it may be changing."""
        since_ns = time.time_ns()
        unsure = mapped()
        for node in walk(self.root):
            look = Look.at(node)
            sure = look.is_settled(since_ns) and look.inode not in unsure
            if _added(packer, node):
                self._seen[node.path] = look if sure else None

    def copy_frozen(self, packer: Packer, mapped: Callable[[], Set[int]]) -> None:
        """Copy what is new or different, with nothing changing now."""
        unsure = mapped()
        looks = {node.path: Look.at(node) for node in walk(self.root)}
        packer.add_content(REMOVED, _joined(sorted(self._seen.keys() - looks.keys(), reverse=True)))
        for node in walk(self.root):
            look = looks[node.path]
            if look.inode in unsure or self._seen.get(node.path) != look:
                packer.add_node(f"files/{node.path}", node)
        packer.add_content(INODES, inodes.encode(_names(looks)))


def _names(looks: Mapping[str, Look]) -> Iterator[inodes.Name]:
    """Of all that a child gets: not of the layer itself, and not of sockets, which CRIU makes."""
    for path, look in looks.items():
        if path != "." and not stat.S_ISSOCK(look.mode):
            yield inodes.Name(look.inode, path)


def _added(packer: Packer, node: Node) -> bool:
    """False if the node went away before it could be read; nothing was written then."""
    try:
        packer.add_node(f"files/{node.path}", node)
    except OSError as exc:
        if exc.errno not in _GONE:
            raise
        return False
    return True


def _joined(paths: Iterable[str]) -> bytes:
    return b"".join(path.encode("utf-8", "surrogateescape") + b"\0" for path in paths)


def inodes_of(root: Path, paths: Iterable[str]) -> frozenset[int]:
    """Inode numbers of those paths, absolute in the container, that the layer holds."""
    found = set()
    for path in paths:
        with (
            suppress(RefusedByGuest, FileNotFoundError),
            parent_of(root, path.removeprefix("/")) as (directory, name),
        ):
            found.add(os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino)
    return frozenset(found)


def shared_mappings(maps: str) -> Iterator[str]:
    """Paths of the files that a process maps shared and writable, by its ``/proc/PID/maps``."""
    for line in maps.split("\n"):  # and at nothing else that could be in a name
        match = _MAPPING.fullmatch(line)
        if match:
            # The kernel writes a newline in a name like this, and what looks like it just so.
            yield from {match[1], match[1].replace("\\012", "\n")}
