"""The medium that a sealed image lies on: a raw block device, or a file of a fixed size."""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path
from typing import Protocol

from sevfork.closing import Closing
from sevfork.errors import HostCannot, NotAuthentic, WrongState

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
        mode = os.fstat(self._fd).st_mode
        if not (stat.S_ISBLK(mode) or stat.S_ISREG(mode)):
            self.close()
            raise WrongState(f"'{path}' is neither a block device nor a file")
        self.size_bytes = os.lseek(self._fd, 0, os.SEEK_END)

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


def _open(path: Path, flags: int) -> tuple[int, bool]:
    """The descriptor, and whether it does direct I/O; only tmpfs and the like refuse it."""
    try:
        return os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC), True
    except FileNotFoundError as exc:
        raise WrongState(f"there is no device or file '{path}'") from exc
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise HostCannot(f"cannot open '{path}': {exc.strerror}") from exc
    log.debug("'%s' refuses direct I/O, using the page cache", path)
    return os.open(path, flags | os.O_CLOEXEC), False
