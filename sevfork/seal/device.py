"""The medium that a sealed image lies on: a raw block device, or a file of a fixed size."""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path
from typing import Protocol

from sevfork.closing import Closing
from sevfork.errors import HostCannot, NotAuthentic, SevforkError, WrongState

log = logging.getLogger(__name__)


class ChunkDevice(Protocol):
    """Bytes at offsets. Offsets and buffers are page-aligned; OSError says that the I/O failed."""

    @property
    def size_bytes(self) -> int: ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer; raise NotAuthentic if the medium ends before."""

    def write_from(self, offset: int, buffer: memoryview) -> None:
        """Write the whole buffer."""

    def flush(self) -> None:
        """Return when everything written is on the medium."""


class BlockDevice(Closing):
    """A block device or file, by direct I/O where the file system has it.

    Direct, because a sealed image is written once and read once: it would only push the workload's
    own pages out of the page cache.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        """Raise WrongState if there is no such device or file, HostCannot if it cannot be used."""
        self._path = path
        self._fd, self.direct = _open(path, os.O_RDWR if writable else os.O_RDONLY)
        try:
            self.size_bytes = _size(self._fd, path)
        except BaseException:
            self.close()
            raise

    def read_into(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            count = os.preadv(self._fd, [buffer[done:]], offset + done)
            if not count:
                raise NotAuthentic(f"'{self._path}' is cut short: it ends at byte {offset + done}")
            done += count

    def write_from(self, offset: int, buffer: memoryview) -> None:
        if offset + len(buffer) > self.size_bytes:
            raise HostCannot(f"'{self._path}' is too small: it has {self.size_bytes} bytes")
        done = 0
        while done < len(buffer):
            done += os.pwritev(self._fd, [buffer[done:]], offset + done)

    def flush(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def volume_failed(what: str, error: OSError) -> HostCannot:
    """The one error for a medium that fails, whenever it does: full, broken, read-only, gone."""
    return HostCannot(
        f"sealed image: the volume cannot be {what}: {error.strerror or 'an I/O error'}",
        hint="look at the pool that the volume lies in: its room, its health, its server",
    )


def _size(descriptor: int, path: Path) -> int:
    try:
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISBLK(mode) or stat.S_ISREG(mode)):
            raise WrongState(f"'{path}' is neither a block device nor a file")
        return os.lseek(descriptor, 0, os.SEEK_END)
    except OSError as exc:
        raise volume_failed("measured", exc) from exc


def _open(path: Path, flags: int) -> tuple[int, bool]:
    """The descriptor, and whether it does direct I/O; only tmpfs and the like refuse it."""
    try:
        return os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC), True
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise _not_opened(path, exc) from exc
    log.debug("'%s' refuses direct I/O, using the page cache", path)
    try:
        return os.open(path, flags | os.O_CLOEXEC), False
    except OSError as exc:
        raise _not_opened(path, exc) from exc


def _not_opened(path: Path, error: OSError) -> SevforkError:
    if error.errno == errno.ENOENT:
        return WrongState(f"there is no device or file '{path}'")
    return volume_failed("opened", error)
