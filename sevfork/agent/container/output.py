"""What a workload prints: the pipe that its standard streams are, and the last of what came out.

A pipe, and not a file of the container's: a workload that prints faster than anybody reads waits,
and so costs a MiB and never the guest's memory; and CRIU gives a child the pipe of the child's own
agent, as runc has it for any container. The reading end is the agent's. A process that does nothing
holds it besides, so that a workload whose agent has died can print on, and an agent that was
started again finds the pipe.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import struct
import termios
import threading
from contextlib import suppress
from pathlib import Path

from msgspec import Struct, field

from sevfork import process
from sevfork.deadline import Deadline
from sevfork.errors import NotAuthentic, SevforkError
from sevfork.unshown import Unshown

log = logging.getLogger(__name__)

KEPT_BYTES = 1 << 20
LAST_LINES, LAST_BYTES = 20, 2048
# The pipe's, instead of 64 KiB: a program that floods it is let run on as often as it is filled.
_CAPACITY = 1 << 20
_POSITION = struct.Struct(">Q")
_SETTLE_S = 0.5


class Piece(Struct, frozen=True):
    """Consecutive bytes; ``start`` is how many were printed before. ``end`` is of all there is."""

    start: int
    data: bytes
    end: int


class Tail(Unshown, Struct):
    """The last KEPT_BYTES of all that was added; to be used by several threads."""

    kept_bytes: int = KEPT_BYTES
    end: int = 0
    _data: bytearray = field(default_factory=bytearray)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, data: bytes | memoryview) -> None:
        with self.lock:
            self._data += data
            self.end += len(data)
            del self._data[: max(0, len(self._data) - self.kept_bytes)]

    def read(self, offset: int, limit: int) -> Piece:
        """From there on, or from the first byte that is still kept; below 0: from the end."""
        with self.lock:
            first = self.end - len(self._data)
            wanted = self.end + offset if offset < 0 else offset
            start = min(max(wanted, first), self.end)
            data = bytes(self._data[start - first : start - first + limit])
            return Piece(start, data, self.end)

    def until(self, end: int) -> bytes:
        """For a child: u64 how much was printed | the last of it, as it was at that position."""
        with self.lock:
            extra = max(0, self.end - end)
            kept = self._data[: max(0, len(self._data) - extra)]
            return _POSITION.pack(self.end - extra) + bytes(kept)

    def resume(self, state: bytes) -> None:
        """Go on from what ``until`` gave. Raise NotAuthentic for anything else."""
        kept = state[_POSITION.size :]
        if len(state) < _POSITION.size or len(kept) > self.kept_bytes:
            raise NotAuthentic("what the workload has printed is not as an agent writes it")
        (end,) = _POSITION.unpack_from(state)
        if end < len(kept) or end >= 2**53:
            raise NotAuthentic("what the workload has printed has an impossible position")
        with self.lock:
            self._data, self.end = bytearray(kept), end


class Output:
    """One guest's pipe, open for as long as the agent lives, and its reader."""

    def __init__(self, state: Path) -> None:
        """``state`` is a directory in which a later agent finds the pipe."""
        self.tail = Tail()
        self._keeper = state / "output.pid"
        self.reading, self.writing = self._found() or self._made()
        threading.Thread(target=self._read, name="output", daemon=True).start()

    @property
    def name(self) -> str:
        """As the kernel, CRIU and runc call it."""
        return f"pipe:[{os.fstat(self.writing).st_ino}]"

    def position(self) -> int:
        """How much was printed up to now, by those who do not print while this is asked."""
        with self.tail.lock:
            waiting = fcntl.ioctl(self.reading, termios.FIONREAD, struct.pack("i", 0))
            return self.tail.end + int(struct.unpack("i", waiting)[0])

    def settle(self, position: int) -> None:
        """Wait until so much has been read, which lies in the pipe."""
        with suppress(SevforkError):  # then it is less
            for _ in Deadline.after(_SETTLE_S).poll(0.001, "the output was not read in time"):
                if self.tail.end >= position:
                    return

    def last_lines(self, since: int = 0) -> str:
        """The last that was printed, at most LAST_LINES and LAST_BYTES of it."""
        self.settle(self.position())
        piece = self.tail.read(max(since, self.tail.end - LAST_BYTES), LAST_BYTES)
        return "\n".join(piece.data.decode(errors="replace").splitlines()[-LAST_LINES:])

    def _read(self) -> None:
        poller = select.poll()
        poller.register(self.reading, select.POLLIN)
        buffer = memoryview(bytearray(_CAPACITY))
        while True:
            poller.poll()
            with self.tail.lock:  # nobody counts what is neither in the pipe nor in the tail
                self.tail.add(buffer[: os.readv(self.reading, [buffer])])

    def _made(self) -> tuple[int, int]:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _CAPACITY)
        os.fchmod(writing, 0o666)  # whoever runs inside may open /dev/stdout anew
        keeper = process.leave_running(["sleep", "infinity"], stdin=reading, stdout=writing)
        self._keeper.parent.mkdir(parents=True, exist_ok=True)
        self._keeper.write_text(str(keeper))
        return reading, writing

    def _found(self) -> tuple[int, int] | None:
        """The pipe of the agent before this one."""
        if not self._keeper.exists():
            return None
        ends = keepers_ends(int(self._keeper.read_text()))
        log.info("the workload prints on to the pipe that it has")
        return (
            os.open(ends / "0", os.O_RDONLY | os.O_CLOEXEC),
            os.open(ends / "1", os.O_WRONLY | os.O_CLOEXEC),
        )


def keepers_ends(pid: int) -> Path:
    """Of the process that holds a pipe: where the kernel lists what it has open."""
    return Path(f"/proc/{pid}/fd")
