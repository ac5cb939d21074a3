"""The files that the workload has written: the overlay's upper layer, copied twice a capture.

Once while the workload runs, and, when it is frozen, whatever has changed since. A file's change
time is what tells; where it cannot, the file is copied again:

- a change within the clock's tick of the first look leaves the same time behind;
- tmpfs sees only the first write to a page through a shared mapping, not those that follow.

What was copied is remembered, so the next capture can be an update: of what has changed since.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from pathlib import Path

from msgspec import Struct, field

from sevfork.agent.container import inodes
from sevfork.agent.container.archive import INODES, REMOVED, Packer
from sevfork.agent.container.tree import Node, parent_of, walk
from sevfork.errors import RefusedByGuest

# Kernel timestamps are as coarse as its tick, 10 ms at most (CONFIG_HZ=100); ten of them.
_TICK_NS = 100_000_000
# Of one path, beside its name: two objects, five integers, an entry of a dict (measured).
_ENTRY_BYTES = 350
_GONE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENODATA, errno.ESTALE)
# Address, permissions, offset, device, inode, path: proc_pid_maps(5).
_MAPPING = re.compile(r"[0-9a-f-]+ .w.s [0-9a-f]+ [0-9a-f:]+ \d+ +(/.*)", re.S)


class Look(Struct, frozen=True):
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

    @property
    def kind(self) -> int:
        """File, directory, link...: ``S_IFMT`` of the mode."""
        return stat.S_IFMT(self.mode)

    def is_settled(self, since_ns: int) -> bool:
        """Any change after ``since_ns`` is sure to leave another time behind."""
        return max(self.changed_ns, self.modified_ns) < since_ns - _TICK_NS


class Copied(Struct, frozen=True):
    """What the child has of a node: its kind, and its look if that would tell of any change."""

    kind: int
    look: Look | None


class Frozen(Struct, frozen=True):
    """What all nodes looked like in one frozen copy, and which looks would not tell of a change."""

    looks: Mapping[str, Look]
    since_ns: int
    unsure: Set[int]

    def copied(self) -> Iterator[tuple[str, Copied]]:
        for path, look in self.looks.items():
            sure = look.is_settled(self.since_ns) and look.inode not in self.unsure
            yield path, Copied(look.kind, look if sure else None)


class LayerCopy(Struct):
    """Copies the layer at ``root``; remembers what it has copied, from one capture to the next.

    A capture is one ``copy_running`` and one or more ``copy_frozen``, of which the last counts;
    then ``keep`` makes an update of the next. ``mapped``, in all copies, are the inodes of files
    that somebody has mapped shared and writable. Whoever maps a file later than that changes its
    time by the first write.
    """

    root: Path
    _copied: dict[str, Copied] = field(default_factory=dict)
    _frozen: Frozen | None = None

    def copy_running(self, packer: Packer, mapped: Callable[[], Set[int]]) -> None:
        """Copy what is new or different, while it may be changing.

        Not what is sure to be copied when all is frozen; nor what stands in the place of something
        of another kind, because only then is that removed.
        """
        since_ns = time.time_ns()
        unsure = mapped()
        for node in walk(self.root):
            look, known = Look.at(node), self._copied.get(node.path)
            sure = look.is_settled(since_ns) and look.inode not in unsure
            if not self._fits(node, known) or not (sure or look.kind != stat.S_IFREG):
                continue
            if (known is None or known.look != look) and _added(packer, node):
                self._copied[node.path] = Copied(look.kind, look if sure else None)

    def copy_frozen(self, packer: Packer, mapped: Callable[[], Set[int]]) -> None:
        """Copy what is new or different, with nothing changing now."""
        since_ns = time.time_ns()
        unsure = mapped()
        looks = {node.path: Look.at(node) for node in walk(self.root)}
        packer.add_content(REMOVED, _joined(sorted(self._gone(looks), reverse=True)))
        for node in walk(self.root):
            look, known = looks[node.path], self._copied.get(node.path)
            if look.inode in unsure or known is None or known.look != look:
                packer.add_node(f"files/{node.path}", node)
        packer.add_content(INODES, inodes.encode(_names(looks)))
        self._frozen = Frozen(looks, since_ns, unsure)

    def keep(self) -> None:
        """The child has, from now on, what the last frozen copy has given it."""
        if self._frozen is not None:
            self._copied, self._frozen = dict(self._frozen.copied()), None

    @property
    def kept_bytes(self) -> int:
        """About the memory that is held to tell what changes."""
        return sum(_ENTRY_BYTES + len(path) for path in self._copied)

    def _fits(self, node: Node, known: Copied | None) -> bool:
        """Whether the child can take it before anything was removed."""
        if known is not None:
            return known.kind == stat.S_IFMT(node.status.st_mode)
        above = self._copied.get(node.path.rpartition("/")[0] or ".")
        return node.path == "." or (above is not None and above.kind == stat.S_IFDIR)

    def _gone(self, looks: Mapping[str, Look]) -> Iterator[str]:
        """What the child has and is not there any more, or is of another kind."""
        for path, known in self._copied.items():
            if path not in looks or looks[path].kind != known.kind:
                yield path


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
