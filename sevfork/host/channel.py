"""A guest's port as a byte pipe with deadlines, on a stream that reports events.

The stream is non-blocking: a call that blocks inside libvirt is reached neither by a deadline nor
by Ctrl-C. Worse, libvirt before 10.0 can lose the wake-up of a thread that calls while another is
blocked in a stream's ``recv`` on the same connection, and then both hang (measured with 9.0: within
a hundred calls). So libvirt's event loop hands over what arrives, and whoever waits, waits here.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable
from typing import Protocol

from sevfork.errors import SevforkError, TimedOut
from sevfork.host.hypervisor import ChannelClosed

# A guest that floods the channel is not listened to while this much waits unread.
_BACKLOG_BYTES = 8 * 1024 * 1024
_PIECE = 64 * 1024
# How often a stream that took nothing is tried again.
_SEND_RETRY_S = 0.01


class EventStream(Protocol):
    """The stream underneath. Nothing here blocks; callbacks come from another thread."""

    def listen(
        self, on_data: Callable[[bytes], None], on_end: Callable[[SevforkError], None]
    ) -> None: ...

    def pause(self, paused: bool) -> None:
        """Stop, or go on, calling ``on_data``."""

    def send(self, data: bytes) -> int:
        """How much of it was taken, perhaps 0; raises ChannelClosed."""

    def abort(self) -> None:
        """End it; never raises, may be repeated."""


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
        deadline = time.monotonic() + timeout_s
        view = memoryview(data)
        while view:
            if self._end:
                raise self._end
            taken = self._stream.send(bytes(view[:_PIECE]))
            view = view[taken:]
            if time.monotonic() >= deadline and view:
                raise TimedOut(f"the VM's agent took no data for {timeout_s:g} s")
            if not taken:
                time.sleep(_SEND_RETRY_S)

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
        self._stream.abort()

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
