"""A guest's channel as libvirt gives it: a stream that reports events."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import libvirt

from sevfork.errors import SevforkError
from sevfork.host import hypervisor as hv
from sevfork.host.libvirt.connection import close_connection
from sevfork.host.libvirt.errors import first_line

log = logging.getLogger(__name__)

_CHANNEL_PIECE = 64 * 1024
_WOULD_BLOCK = -2
_READABLE = libvirt.VIR_STREAM_EVENT_READABLE
_ENDED = libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP


class LibvirtStream:
    """``channel.EventStream`` on a non-blocking libvirt stream with a connection of its own."""

    def __init__(self, connection: Any, stream: Any) -> None:
        self._connection, self._stream = connection, stream
        self._listening = False

    def listen(
        self, on_data: Callable[[bytes], None], on_end: Callable[[SevforkError], None]
    ) -> None:
        self._listening = True
        self._stream.eventAddCallback(_READABLE | _ENDED, self._event, (on_data, on_end))

    def pause(self, paused: bool) -> None:
        with contextlib.suppress(libvirt.libvirtError):  # a stream that ended meanwhile
            self._stream.eventUpdateCallback(_ENDED if paused else _READABLE | _ENDED)

    def send(self, data: bytes) -> int:
        try:
            taken = int(self._stream.send(data))
        except libvirt.libvirtError as exc:
            raise hv.ChannelClosed(f"the channel broke: {first_line(exc)}") from exc
        return max(taken, 0)  # -2 where it would block

    def abort(self) -> None:
        self._stop_listening()
        abort(self._stream)
        close_connection(self._connection)

    def _event(self, _stream: Any, events: int, callbacks: Any) -> None:
        on_data, on_end = callbacks
        try:
            data = self._stream.recv(_CHANNEL_PIECE) if events & _READABLE else b""
        except libvirt.libvirtError as exc:
            log.debug("channel: %s", first_line(exc))
            data = b""
        if data == _WOULD_BLOCK:
            return
        if data:
            on_data(data)
        else:
            self._stop_listening()
            on_end(hv.ChannelClosed("the VM closed the channel: it has ended"))

    def _stop_listening(self) -> None:
        if self._listening:
            self._listening = False
            with contextlib.suppress(libvirt.libvirtError):  # the connection is gone
                self._stream.eventRemoveCallback()


def abort(stream: Any) -> None:
    with contextlib.suppress(libvirt.libvirtError):  # a broken stream is as good as aborted
        stream.abort()
