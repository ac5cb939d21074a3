"""A guest's channel as libvirt gives it: a stream that reports events."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

import libvirt

from sevfork.errors import HypervisorUnreachable, SevforkError
from sevfork.host import hypervisor as hv
from sevfork.host.libvirt.connection import close_connection
from sevfork.host.libvirt.errors import first_line

log = logging.getLogger(__name__)

_CHANNEL_PIECE = 64 * 1024
_LOST = "the connection to libvirt broke"
_WOULD_BLOCK = -2
_READABLE = libvirt.VIR_STREAM_EVENT_READABLE
_ENDED = libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP


class LibvirtStream:
    """``channel.EventStream`` on a non-blocking libvirt stream with a connection of its own."""

    def __init__(self, connection: Any, stream: Any) -> None:
        self._connection, self._stream = connection, stream
        self._listening, self._freed = False, False
        self._receiving, self._sending = threading.Lock(), threading.Lock()

    def listen(
        self, on_data: Callable[[bytes], None], on_end: Callable[[SevforkError], None]
    ) -> None:
        self._listening = True
        # When libvirtd dies, a stream reports nothing (measured with 9.0): the connection does.
        self._connection.registerCloseCallback(self._connection_closed, on_end)
        self._stream.eventAddCallback(_READABLE | _ENDED, self._event, (on_data, on_end))

    def pause(self, paused: bool) -> None:
        with contextlib.suppress(libvirt.libvirtError):  # a stream that ended meanwhile
            self._stream.eventUpdateCallback(_ENDED if paused else _READABLE | _ENDED)

    def send(self, data: bytes) -> int:
        try:
            with self._sending:
                taken = 0 if self._freed else int(self._stream.send(data))
        except libvirt.libvirtError as exc:
            raise self._ended(f"the channel broke: {first_line(exc)}") from exc
        return max(taken, 0)  # -2 where it would block

    def abort(self) -> None:
        """By closing the connection, which drops what waits for a guest that does not read it: as
        soon as that guest ends, libvirtd 11.3 would die of it, or loop for ever."""
        self._stop_listening()
        with self._sending:
            if not self._freed:
                self._free()
        close_connection(self._connection)

    def _free(self) -> None:
        """libvirt never lets go of what a callback was registered with, and that is the stream.

        So it would stay, and the connection open: two descriptors a channel (measured with 9.0).
        """
        with self._receiving:
            self._freed = True
            self._stream.__del__()

    def _event(self, _stream: Any, events: int, callbacks: Any) -> None:
        on_data, on_end = callbacks
        try:
            with self._receiving:
                readable = events & _READABLE and not self._freed
                data = self._stream.recv(_CHANNEL_PIECE) if readable else b""
        except libvirt.libvirtError as exc:
            log.debug("channel: %s", first_line(exc))
            data = b""
        if data == _WOULD_BLOCK:
            return
        if data:
            on_data(data)
        else:
            self._stop_listening()
            on_end(self._ended("the VM closed the channel: it has ended"))

    def _connection_closed(
        self, _connection: Any, _reason: int, on_end: Callable[[SevforkError], None]
    ) -> None:
        on_end(HypervisorUnreachable(_LOST))

    def _ended(self, message: str) -> SevforkError:
        """Why the channel is over: for the reason given, or because libvirtd is."""
        with contextlib.suppress(libvirt.libvirtError):
            if self._connection.isAlive():
                return hv.ChannelClosed(message)
        return HypervisorUnreachable(_LOST)

    def _stop_listening(self) -> None:
        if self._listening:
            self._listening = False
            # Each holds a reference, so that closing would close nothing; the connection may be
            # gone already.
            for remove in (
                self._stream.eventRemoveCallback,
                self._connection.unregisterCloseCallback,
            ):
                with contextlib.suppress(libvirt.libvirtError):
                    remove()
