"""One command that somebody runs inside a container: its streams, in short exchanges, and its end.

The agent answers one request at a time, so nothing here waits for long: whoever runs the command
asks again and again. A session that nobody asks for is over, and its command is ended.
"""

from __future__ import annotations

import fcntl
import os
import select
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from msgspec import Struct

from sevfork.agent.container import adopt
from sevfork.deadline import Deadline
from sevfork.errors import RefusedByGuest, SevforkError
from sevfork.wire.protocol import MAX_PIECE_BYTES

_WAIT_S = 0.2
# Whoever runs a command asks several times a second, unless another command has the agent.
_UNASKED_S = 60.0

Begin = Callable[[Sequence[str], tuple[int, int, int]], int]
"""Starts a command with these standard streams; returns its process id."""


class Heard(Struct, frozen=True):
    """What came of one exchange. ``returncode`` is None while it runs or has more to say."""

    taken: int
    stdout: bytes
    stderr: bytes
    returncode: int | None


class Session:
    """One command, from its start to ``end``."""

    def __init__(self, begin: Begin, argv: Sequence[str]) -> None:
        """Raises what ``begin`` does."""
        self.command = shlex.join(argv)
        (theirs_in, self._in), (self._out, theirs_out), (self._err, theirs_err) = (
            os.pipe2(os.O_CLOEXEC) for _ in range(3)
        )
        try:
            self._pid = begin(argv, (theirs_in, theirs_out, theirs_err))
        except BaseException:
            self._close()
            raise
        finally:
            for theirs in (theirs_in, theirs_out, theirs_err):
                os.close(theirs)
        for mine in (self._in, self._out, self._err):
            fcntl.fcntl(mine, fcntl.F_SETFL, os.O_NONBLOCK)
        self._open = {self._out, self._err}
        self._ended: adopt.Ended | None = None
        self._lock = threading.Lock()
        self._until = Deadline.after(_UNASKED_S)

    @property
    def is_forgotten(self) -> bool:
        return self._until.passed

    def exchange(self, data: bytes, close: bool) -> Heard:
        """Give it that input, as far as it takes it, and get what it has printed."""
        self._until = Deadline.after(_UNASKED_S)
        taken = self._write(data)
        if close and taken == len(data):
            self._close_input()
        # There may be more to give: then nobody waits for what it prints.
        self._wait(0.0 if taken else _WAIT_S, wants_room=taken < len(data))
        # Looked at before its output: so what it printed before its end is read.
        self.tend()
        ended = self._ended
        stdout, stderr = self._read(self._out), self._read(self._err)
        over = ended is not None and not stdout and not stderr
        return Heard(taken, stdout, stderr, ended.returncode if ended and over else None)

    def tend(self) -> None:
        """Reap it when it has ended: till then a first process that ends is not let go either."""
        with self._lock:
            if self._ended is None and (found := adopt.look(self._pid)):
                self._ended = found
                adopt.end(self._pid)

    def end(self) -> None:
        """End it, if it has not ended, and let go of its streams."""
        with self._lock, suppress(SevforkError):
            if self._ended is None:
                adopt.end(self._pid)
        self._close()

    def _wait(self, timeout_s: float, *, wants_room: bool) -> None:
        """Until it has printed something, takes input, or has let go of its streams.

        One that has closed them may sleep on.
        """
        if not self._open:
            time.sleep(timeout_s)
            return
        poller = select.poll()
        if wants_room:
            poller.register(self._in, select.POLLOUT)
        for stream in self._open:
            poller.register(stream, select.POLLIN)
        poller.poll(int(timeout_s * 1000))

    def _read(self, stream: int) -> bytes:
        try:
            data = os.read(stream, MAX_PIECE_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            self._open.discard(stream)
        return data

    def _write(self, data: bytes) -> int:
        if not data or self._in < 0:
            return len(data)
        try:
            return os.write(self._in, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return len(data)  # it reads no more

    def _close_input(self) -> None:
        if self._in >= 0:
            os.close(self._in)
            self._in = -1

    def _close(self) -> None:
        self._close_input()
        for stream in (self._out, self._err):
            os.close(stream)


class Sessions:
    """At most one, for a container that ``begin`` starts commands in."""

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._session: Session | None = None

    @property
    def command(self) -> str | None:
        """What runs inside, for words; None where nothing does."""
        self.forget()
        return self._session.command if self._session else None

    def start(self, argv: Sequence[str]) -> None:
        """Raises RefusedByGuest while another command runs inside."""
        if self.command is not None:
            raise RefusedByGuest("another command runs inside this VM", hint="one at a time")
        self._session = Session(self._begin, argv)

    def exchange(self, data: bytes, close: bool) -> Heard:
        """Raises RefusedByGuest where no command runs."""
        if self._session is None:
            raise RefusedByGuest("the command inside was ended: nobody had asked for it any more")
        heard = self._session.exchange(data, close)
        if heard.returncode is not None:
            self.end()
        return heard

    def end(self) -> None:
        if self._session is not None:
            self._session.end()
            self._session = None

    def tend(self) -> None:
        """Reap a command that has ended; from any thread."""
        if session := self._session:
            session.tend()

    def forget(self) -> None:
        """End a command that whoever ran it has left."""
        self.tend()
        if self._session is not None and self._session.is_forgotten:
            self.end()
