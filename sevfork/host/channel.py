"""A guest's port as a byte pipe with deadlines, on a stream that reports events.

A call that blocks inside libvirt is reached neither by a deadline nor by Ctrl-C. Worse, libvirt
before 10.0 can lose the wake-up of a thread that calls while another is blocked in a stream's
``recv`` on the same connection, and then both hang (measured with 9.0: within a hundred calls). So
libvirt's event loop hands over what arrives, and whoever waits, waits here.

Sending blocks all the same once about 450 KiB lie unread before the guest (measured), until libvirt
gives the connection up after 30 s. So a thread sends, and a channel has a connection of its own: a
guest that stops reading costs its own channel and nobody else's.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable
from typing import Protocol

from sevfork.deadline import Deadline
from sevfork.errors import SevforkError, TimedOut
from sevfork.host.aside import Aside
from sevfork.host.hypervisor import ChannelClosed

# A guest that floods the channel is not listened to while this much waits unread.
_BACKLOG_BYTES = 8 * 1024 * 1024
_PIECE = 64 * 1024
# How often a stream that took nothing is tried again.
_SEND_RETRY_S = 0.01
_ABORT_TIMEOUT_S = 5.0


class EventStream(Protocol):
    """The stream underneath; callbacks come from another thread."""

    def listen(
        self, on_data: Callable[[bytes], None], on_end: Callable[[SevforkError], None]
    ) -> None: ...

    def pause(self, paused: bool) -> None:
        """Stop, or go on, calling ``on_data``."""

    def send(self, data: bytes) -> int:
        """How much of it was taken, perhaps 0; may block. Raises ChannelClosed."""

    def abort(self) -> None:
        """End it; may block for as long as a ``send`` does. Never raises, may be repeated."""


class StreamChannel:
    """The channel over one stream; ``hypervisor.Channel`` is its contract."""

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream
        self._changed = threading.Condition()
        self._arrived: collections.deque[bytes] = collections.deque()
        self._backlog_bytes = 0
        self._paused = False
        self._end: SevforkError | None = None
        stream.listen(self._on_data, self._on_end)

    def send(self, data: bytes, timeout_s: float = 30.0) -> None:
        if self._end:
            raise self._end
        deadline = Deadline.after(timeout_s)
        sender = Aside(lambda: self._send_all(data, deadline), "channel")
        if not sender.wait(deadline.left_s):
            # Part of it may be on its way: nothing that follows could be understood.
            self._on_end(TimedOut(f"the VM's agent took no data for {timeout_s:g} s"))
        error = sender.error or self._end
        if error:
            raise error

    def _send_all(self, data: bytes, deadline: Deadline) -> None:
        view = memoryview(data)
        while view and not deadline.passed and not self._end:
            taken = self._stream.send(bytes(view[:_PIECE]))
            view = view[taken:]
            if not taken:
                time.sleep(_SEND_RETRY_S)
        if view:
            raise TimedOut("the VM's agent did not take all data in time")

    def receive(self, timeout_s: float) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._arrived or self._end, max(timeout_s, 0.0))
            if not self._arrived:
                if self._end:
                    raise self._end
                return b""
            data = self._arrived.popleft()
            self._backlog_bytes -= len(data)
            resume = self._paused and self._backlog_bytes < _BACKLOG_BYTES // 2
            self._paused = self._paused and not resume
        if resume:
            self._stream.pause(False)
        return data

    def close(self) -> None:
        self._on_end(ChannelClosed("the channel to the VM's agent is closed"))
        Aside(self._stream.abort, "channel").wait(_ABORT_TIMEOUT_S)

    def _on_data(self, data: bytes) -> None:
        with self._changed:
            self._arrived.append(data)
            self._backlog_bytes += len(data)
            pause = not self._paused and self._backlog_bytes >= _BACKLOG_BYTES
            self._paused = self._paused or pause
            self._changed.notify_all()
        if pause:
            self._stream.pause(True)

    def _on_end(self, error: SevforkError) -> None:
        with self._changed:
            self._end = self._end or error
            self._changed.notify_all()
