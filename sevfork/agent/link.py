"""The guest's end of the control channel: a virtio-serial port that the host opens and closes.

A host that disconnects in the middle of a line is noticed by the hang-up, and otherwise by the
newline that starts the next line. Nothing is sent while no host is connected.
"""

from __future__ import annotations

import logging
import os
import select
from pathlib import Path

from sevfork.closing import Closing
from sevfork.deadline import Deadline
from sevfork.errors import SevforkError, TimedOut
from sevfork.wire.lines import Frame, LineDecoder

log = logging.getLogger(__name__)

PORT = Path("/dev/virtio-ports/org.sevfork.agent.0")
_READ_SIZE = 64 * 1024
# How long an agent without a host waits for the port's next change, which it is woken by, at most.
_IDLE_S = 1.0
_SEND_TIMEOUT_S = 30.0
# Of what comes during an exchange, which lasts seconds: a host asks once and waits. It may send as
# fast as it likes for as long as it does not answer (measured: 13 MB to 286 MB of the guest's).
MAX_POSTPONED = 16


class HostGone(SevforkError):
    """The host closed the channel, or stopped reading from it."""


class Link(Closing):
    """Frames over the port. Not safe for use by several threads."""

    def __init__(self, path: Path = PORT) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        # poll() reports a hang-up at once for as long as no host is connected; this does once.
        self._changes = select.epoll()
        self._changes.register(self._fd, select.EPOLLIN | select.EPOLLET)
        self._decoder = LineDecoder()
        self._frames: list[Frame] = []

    def close(self) -> None:
        self._changes.close()
        os.close(self._fd)

    def next_frame(self, timeout_s: float) -> Frame | None:
        """The next frame, or None when none came in time."""
        deadline = Deadline.after(timeout_s)
        while not self._frames and not deadline.passed:
            self._read(deadline)
        return self._frames.pop(0) if self._frames else None

    def send(self, frame: Frame, timeout_s: float = _SEND_TIMEOUT_S) -> None:
        """Write one line; raises HostGone when no host takes it."""
        line = memoryview(frame.encode_line())
        deadline = Deadline.after(timeout_s)
        while line:
            line = line[self._write(line, deadline) :]

    def exchange(self, request: Frame, timeout_s: float) -> Frame:
        """Send a frame and wait for the one of the same kind and id; requests wait meanwhile.

        Up to MAX_POSTPONED of them: a host that floods the channel loses what it sends.
        """
        self.send(request)
        deadline = Deadline.after(timeout_s)
        postponed: list[Frame] = []
        lost = 0
        try:
            while frame := self.next_frame(deadline.left_s):
                if (frame.kind, frame.request_id) == (request.kind, request.request_id):
                    return frame
                if len(postponed) < MAX_POSTPONED:
                    postponed.append(frame)
                else:
                    lost += 1
        finally:
            self._frames[:0] = postponed
            if lost:
                log.warning("%d frames came while the host was asked, and are lost", lost)
        raise TimedOut("the host did not answer the agent in time")

    def _poll(self, events: int, deadline: Deadline) -> int:
        poller = select.poll()
        poller.register(self._fd, events)
        ready = poller.poll(int(deadline.left_s * 1000))
        return ready[0][1] if ready else 0

    def _receive(self, deadline: Deadline) -> tuple[bytes, bool]:
        """What came, and whether the host is gone. The port may fail in any way while it is."""
        try:
            events = self._poll(select.POLLIN, deadline)
            data = os.read(self._fd, _READ_SIZE) if events & select.POLLIN else b""
        except BlockingIOError:
            return b"", False
        except OSError:  # the host unplugs the port, or there is no memory for a moment
            return b"", True
        return data, bool(events) and not data

    def _read(self, deadline: Deadline) -> None:
        data, gone = self._receive(deadline)
        if data:
            dropped = self._decoder.dropped
            self._frames += self._decoder.feed(data)
            if self._decoder.dropped > dropped:
                log.warning("dropped a line from the host that was not a frame")
        elif gone:
            self._decoder.reset()
            self._changes.poll(min(deadline.left_s, _IDLE_S))

    def _write(self, line: memoryview, deadline: Deadline) -> int:
        try:
            events = self._poll(select.POLLOUT, deadline)
            if not events & select.POLLOUT or events & select.POLLHUP:
                raise HostGone("no host is listening on the control channel")
            return os.write(self._fd, line)
        except BlockingIOError:
            return 0
        except OSError as exc:
            self._decoder.reset()
            raise HostGone(f"the control channel does not work: {exc.strerror}") from exc
