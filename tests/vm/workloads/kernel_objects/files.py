"""Files: open, deleted, mapped, sparse, linked, locked, watched."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from pathlib import Path

from .registry import FOLDER, Check, held, libc, same

F_OFD_SETLK = 37
O_PATH = 0o10000000
MIB = 1 << 20


def _new(name: str, content: bytes = b"content") -> Path:
    path = FOLDER / name
    path.write_bytes(content)
    return path


@held
def file_with_offset_and_flags() -> Check:
    path = _new("offset")
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    os.lseek(fd, 3, os.SEEK_SET)

    def check() -> None:
        same(os.lseek(fd, 0, os.SEEK_CUR), 3)
        same(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND, os.O_APPEND)
        same(fcntl.fcntl(fd, fcntl.F_GETFD), fcntl.FD_CLOEXEC)

    return check


@held
def two_descriptors_of_one_open_file() -> Check:
    first = os.open(_new("duplicated"), os.O_RDWR)
    second = os.dup(first)

    def check() -> None:
        for offset in (5, 0):
            os.lseek(first, offset, os.SEEK_SET)
            same(os.lseek(second, 0, os.SEEK_CUR), offset)

    return check


@held
def descriptor_of_a_path_and_of_a_folder() -> Check:
    path = _new("by-path")
    by_path, folder = os.open(path, O_PATH), os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY)

    def check() -> None:
        same(os.fstat(by_path).st_ino, path.stat().st_ino)
        assert "by-path" in os.listdir(folder)  # noqa: PTH208 - by descriptor

    return check


@held
def deleted_file() -> Check:
    path = _new("deleted", b"gone, but open")
    fd = os.open(path, os.O_RDWR)
    path.unlink()

    def check() -> None:
        same(os.pread(fd, 100, 0), b"gone, but open")
        same(os.fstat(fd).st_nlink, 0)

    return check


@held
def deleted_file_mapped_shared() -> Check:
    path = _new("deleted-mapped", bytes(8192))
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 8192)
    path.unlink()
    mapped[5000:5005] = b"hello"

    def check() -> None:
        same(mapped[5000:5005], b"hello")

    return check


@held
def mapped_file_shared() -> Check:
    path = _new("mapped", bytes(8192))
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 8192)
    mapped[4096:4101] = b"first"

    def check() -> None:
        same(path.read_bytes()[4096:4101], b"first")
        mapped[0:4] = b"more"
        same(path.read_bytes()[:4], b"more")
        mapped[0:4] = bytes(4)

    return check


@held
def mapped_file_private() -> Check:
    path = _new("mapped-private", b"f" * 8192)
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 8192, flags=mmap.MAP_PRIVATE)
    mapped[0:3] = b"own"

    def check() -> None:
        same((mapped[0:3], mapped[3:6]), (b"own", b"fff"))
        same(path.read_bytes()[:3], b"fff")

    return check


@held
def sparse_file() -> Check:
    path = FOLDER / "sparse"
    with path.open("wb") as file:
        file.seek(64 * MIB)
        file.write(b"end")

    def check() -> None:
        same(path.stat().st_size, 64 * MIB + 3)
        assert path.stat().st_blocks * 512 < MIB, f"{path.stat().st_blocks} blocks"
        same(path.read_bytes()[-3:], b"end")

    return check


@held
def hard_links() -> Check:
    first, second = _new("link-1"), FOLDER / "link-2"
    second.hardlink_to(first)

    def check() -> None:
        same(first.stat().st_nlink, 2)
        same(first.stat().st_ino, second.stat().st_ino)

    return check


@held
def symbolic_link_fifo_and_modes() -> Check:
    path, link, fifo = _new("mode"), FOLDER / "symbolic", FOLDER / "fifo"
    path.chmod(0o640)
    link.symlink_to("mode")
    os.mkfifo(fifo, 0o600)
    fd = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    os.write(fd, b"queued")

    def check() -> None:
        same((path.stat().st_mode & 0o7777, str(link.readlink())), (0o640, "mode"))
        same(os.read(fd, 100), b"queued")
        os.write(fd, b"queued")

    return check


@held
def times_of_a_file_and_a_folder() -> Check:
    path, folder = _new("times"), FOLDER / "folder"
    folder.mkdir()
    for each in (path, folder):
        os.utime(each, ns=(1_000_000_123, 2_000_000_456))

    def check() -> None:
        same([each.stat().st_mtime_ns for each in (path, folder)], [2_000_000_456] * 2)

    return check


@held
def extended_attribute() -> Check:
    path = _new("attribute")
    os.setxattr(path, "user.kept", b"value")

    def check() -> None:
        same(os.getxattr(path, "user.kept"), b"value")

    return check


@held
def inode_numbers() -> Check:
    """SQLite, log shippers and mail spools know a file by device and inode."""
    closed, opened, folder = _new("inode"), _new("inode-open"), FOLDER / "inode-folder"
    folder.mkdir()
    fd = os.open(opened, os.O_RDWR)

    def numbers() -> list[tuple[int, int]]:
        stats = [path.stat() for path in (closed, opened, folder, Path("/etc/passwd"))]
        return [(stat.st_dev, stat.st_ino) for stat in (*stats, os.fstat(fd))]

    want = numbers()
    return lambda: same(numbers(), want)


@held
def flock() -> Check:
    path = _new("flock")
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)

    def check() -> None:
        other = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            same(error.errno, errno.EWOULDBLOCK)
        else:
            raise AssertionError("somebody else gets the lock")
        finally:
            os.close(other)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    return check


@held
def lock_of_the_process() -> Check:
    path = _new("posix-lock")
    fd = os.open(path, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 4, 1)

    def check() -> None:
        pid = os.fork()
        if not pid:
            other = os.open(path, os.O_RDWR)
            wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
            kind, _, start, length, _ = struct.unpack(
                "hhqqi4x", fcntl.fcntl(other, fcntl.F_GETLK, wanted)
            )
            os._exit((kind, start, length) != (fcntl.F_WRLCK, 1, 4))
        same(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)

    return check


@held
def lock_of_the_open_file() -> Check:
    path = _new("ofd-lock")
    fd = os.open(path, os.O_RDWR)
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
    fcntl.fcntl(fd, F_OFD_SETLK, lock)

    def check() -> None:
        other = os.open(path, os.O_RDWR)
        try:
            fcntl.fcntl(other, F_OFD_SETLK, lock)
        except OSError as error:
            same(error.errno, errno.EAGAIN)
        else:
            raise AssertionError("somebody else gets the lock")
        finally:
            os.close(other)

    return check


@held
def inotify_of_a_writable_folder() -> Check:
    folder = FOLDER / "watched"
    folder.mkdir()
    fd = libc("inotify_init1", os.O_NONBLOCK)
    watch = libc("inotify_add_watch", fd, ctypes.c_char_p(bytes(folder)), 0x100)  # IN_CREATE

    def check() -> None:
        (folder / "new").touch()
        (folder / "new").unlink()
        number, mask, _, length = struct.unpack_from("iIII", event := os.read(fd, 4096))
        same((number, mask, event[16 : 16 + length].rstrip(b"\0")), (watch, 0x100, b"new"))

    return check
