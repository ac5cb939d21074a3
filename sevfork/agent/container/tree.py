"""Files below a directory that somebody else may be changing.

A workload owns what lies in its container's root. It could put a symbolic link where the agent
expects a directory, at any moment, and make the agent read or write a file of the guest instead.
So nothing here resolves a path: every step opens one name in an open directory, never through a
link. ``resolve`` says beforehand where the links of packages (``/var/run -> /run``) lead inside the
tree; an image is filled on the build host by the same functions (``sevfork/image/guest_root.py``).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from msgspec import Struct

from sevfork.errors import RefusedByGuest

_NO_DIRECTORY = (errno.ELOOP, errno.ENOTDIR, errno.ENOENT)
_MAX_LINKS = 40  # as many as the kernel follows
# Not there, a link, a directory, a socket or a pipe without a reader.
_NO_FILE = (errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO)
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Each level costs a descriptor, of which a process has 1,024, and a frame of Python's stack.
MAX_DEPTH = 256
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Node(Struct, frozen=True):
    """One name in an open directory. ``path`` is relative to the tree's root, which is ``.``."""

    path: str
    status: os.stat_result
    directory: int
    name: str

    @property
    def real_path(self) -> str:
        """For calls that know no ``dir_fd``; valid while the walk stands at this node."""
        return f"/proc/self/fd/{self.directory}/{self.name}"

    def open(self) -> int:
        """A read-only descriptor of a regular file."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(self.name, flags, dir_fd=self.directory)

    def link_target(self) -> str:
        return os.readlink(self.name, dir_fd=self.directory)

    def attributes(self) -> dict[str, bytes]:
        """Extended attributes, of links too."""
        names = os.listxattr(self.real_path, follow_symlinks=False)
        return {
            name: os.getxattr(self.real_path, name, follow_symlinks=False) for name in sorted(names)
        }


def walk(root: Path) -> Iterator[Node]:
    """Every node below root, a directory before what it holds, root itself first.

    What disappears while the walk goes on is left out. Raises RefusedByGuest below MAX_DEPTH.
    """
    directory = os.open(root, _DIRECTORY)
    try:
        yield Node(".", os.fstat(directory), directory, ".")
        yield from _walk(directory, "")
    finally:
        os.close(directory)


def _walk(directory: int, prefix: str) -> Iterator[Node]:
    for name in sorted(os.listdir(directory)):  # noqa: PTH208  # a descriptor
        with suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            node = Node(prefix + name, status, directory, name)
            yield node
            if stat.S_ISDIR(status.st_mode):
                yield from _walk_into(node)


def _walk_into(node: Node) -> Iterator[Node]:
    _require_depth(node.path.count("/") + 1)
    try:
        child = os.open(node.name, _DIRECTORY, dir_fd=node.directory)
    except OSError as exc:
        if exc.errno in _NO_DIRECTORY:
            return  # not any more
        raise
    try:
        yield from _walk(child, node.path + "/")
    finally:
        os.close(child)


def _require_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise RefusedByGuest(
            f"a directory of the workload's lies more than {MAX_DEPTH} levels deep",
            hint="its files cannot be carried into a child",
        )


def resolve(root: Path, path: str) -> str:
    """Where ``path`` leads for those whose root directory is ``root``: relative to it, link-free.

    What does not exist is taken as it is written. Only an answer: what is opened is opened by the
    functions below, which refuse a link that somebody has put there since.
    Raises RefusedByGuest for links that go round.
    """
    done: list[str] = []
    left = list(reversed(PurePosixPath("/", path).parts[1:]))
    links = 0
    while left:
        part = left.pop()
        if part == "..":
            done = done[:-1]
        elif (here := root.joinpath(*done, part)).is_symlink():
            links += 1
            if links > _MAX_LINKS:
                raise RefusedByGuest(f"'{path}' leads through more than {_MAX_LINKS} links")
            target = PurePosixPath(here.readlink())
            done = [] if target.is_absolute() else done
            left += reversed([part for part in target.parts if not part.startswith("/")])
        else:
            done.append(part)
    return "/".join(done)


@contextmanager
def parent_of(root: Path, path: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
    """An open descriptor of the directory that holds ``path``, and the last name.

    ``path`` is relative to root. With ``create``, missing directories are made (mode 0755).
    Raises RefusedByGuest when a link, or anything else that is no directory, is in the way.
    """
    *directories, name = path.split("/")
    if any(part in ("", ".", "..") for part in (*directories, name)):
        raise RefusedByGuest(f"'{path}' is not a plain relative path")
    current = os.open(root, _DIRECTORY)
    try:
        for part in directories:
            current = _step(current, part, create)
        yield current, name
    finally:
        os.close(current)


def _step(directory: int, name: str, create: bool) -> int:
    """Open ``name`` in ``directory`` and close the latter, which stays open on an error."""
    if create:
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=directory)
    try:
        child = os.open(name, _DIRECTORY, dir_fd=directory)
    except OSError as exc:
        if exc.errno in _NO_DIRECTORY:
            raise RefusedByGuest(f"'{name}' in the container is no directory") from exc
        raise
    os.close(directory)
    return child


def write_file(root: Path, path: str, content: bytes, mode: int = 0o644) -> None:
    """Give the file at ``path`` this content; a new one, in place of what is no regular file.

    A file that is there stays the one that it is: somebody may have it open or mapped, or know it
    by its inode number.
    """
    with parent_of(root, path, create=True) as (directory, name):
        descriptor = _open_regular(directory, name)
        if descriptor is None:
            remove(directory, name)
            descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
        with os.fdopen(descriptor, "wb") as file:
            os.ftruncate(file.fileno(), len(content))
            os.fchmod(file.fileno(), mode)
            file.write(content)


def append_file(root: Path, path: str, line: bytes, mode: int = 0o644) -> int:
    """Add a line to the file at ``path``, by one write; its size then, in bytes.

    The file is the one that is there, or a new one, as in ``write_file``.
    """
    with parent_of(root, path, create=True) as (directory, name):
        descriptor = _open_regular(directory, name)
        if descriptor is None:
            remove(directory, name)
            descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
        with os.fdopen(descriptor, "ab", buffering=0) as file:
            os.fchmod(file.fileno(), mode)
            file.seek(0, os.SEEK_END)
            file.write(line)
            return file.tell()


def _open_regular(directory: int, name: str) -> int | None:
    """For writing; None if there is nothing of that name, or something else."""
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=directory)
    except OSError as exc:
        if exc.errno in _NO_FILE:
            return None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


@contextmanager
def new_file(directory: int, name: str, size: int) -> Iterator[int]:
    """A descriptor of a new regular file of that size, of which nothing is stored yet."""
    descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
    try:
        os.ftruncate(descriptor, size)
        yield descriptor
    finally:
        os.close(descriptor)


def describe(path: str, node: Node) -> None:
    """Give what is at ``path`` the node's owner, mode, attributes and time.

    In the order in which none undoes another.
    """
    status = node.status
    os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        Path(path).chmod(stat.S_IMODE(status.st_mode))
    for name, value in node.attributes().items():
        os.setxattr(path, name, value, follow_symlinks=False)
    set_times(path, status)


def set_times(path: str, status: os.stat_result) -> None:
    times = (status.st_mtime_ns, status.st_mtime_ns)
    os.utime(path, ns=times, follow_symlinks=False)


def make_directory(root: Path, path: str, uid: int, gid: int) -> None:
    """A directory at ``path`` that belongs to uid and gid, made if it is missing."""
    with parent_of(root, f"{path}/.made", create=True) as (directory, _):
        os.fchown(directory, uid, gid)


def remove(directory: int, name: str, depth: int = 1) -> None:
    """Remove ``name`` and, if it is a directory, everything below; no matter if there is none.

    Raises RefusedByGuest below MAX_DEPTH.
    """
    _require_depth(depth)
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        _remove_directory(directory, name, depth)


def _remove_directory(directory: int, name: str, depth: int) -> None:
    child = os.open(name, _DIRECTORY, dir_fd=directory)
    try:
        for entry in os.listdir(child):  # noqa: PTH208  # a descriptor
            remove(child, entry, depth + 1)
    finally:
        os.close(child)
    os.rmdir(name, dir_fd=directory)
