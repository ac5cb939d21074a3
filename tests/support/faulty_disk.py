"""A disk that fails where a test says: a file behind an NBD server, which any QEMU can plug in.

No device-mapper, kernel module or blkdebug is needed: libvirt has no XML for the last, and not
every machine has the others. The protocol: https://github.com/NetworkBlockDevice/nbd,
doc/proto.md; fixed newstyle negotiation and simple replies.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from io import BufferedRWPair
from pathlib import Path

_GREETING = b"NBDMAGIC" + b"IHAVEOPT" + struct.pack(">H", 1 | 2)  # fixed newstyle, no zeroes
_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_OPTION_MAGIC = 0x3E889045565A9
_ABORT, _GO = 2, 7
_ACK, _INFO, _UNSUPPORTED = 1, 3, 2**31 + 1
_HAS_FLAGS, _SENDS_FLUSH = 1, 4
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_REPLY_MAGIC = 0x67446698


class Command(IntEnum):
    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3


@dataclass(frozen=True)
class Request:
    """``offset`` and ``size`` are in bytes, and 0 for a flush."""

    command: Command
    offset: int
    size: int

    def touches(self, position: int) -> bool:
        return self.offset <= position < self.offset + self.size


Fails = Callable[[Request], bool]


@dataclass
class FaultyDisk:
    """Serves a file; ``failed`` are the requests that were answered with an I/O error."""

    file: Path
    socket_path: Path
    fails: Fails
    failed: list[Request] = field(default_factory=list)

    @contextmanager
    def served(self) -> Iterator[FaultyDisk]:
        """To one client after another, until the end of the block."""
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(self.socket_path))
            listening.listen()
            server = threading.Thread(target=self._serve, args=(listening,), daemon=True)
            server.start()
            try:
                yield self
            finally:
                listening.shutdown(socket.SHUT_RDWR)
                server.join(10)
                self.socket_path.unlink()

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:  # the block has ended
                return
            with client, client.makefile("rwb") as stream:
                if self._negotiate(_Stream(stream)):
                    self._answer_requests(_Stream(stream))

    def _negotiate(self, stream: _Stream) -> bool:
        """Whether the client wants the disk, and knows its size by now."""
        stream.send(_GREETING)
        stream.receive(4)
        while header := stream.receive(_OPTION.size):
            _, option, size = _OPTION.unpack(header)
            stream.receive(size)
            if option == _GO:
                flags = _HAS_FLAGS | _SENDS_FLUSH
                export = struct.pack(">HQH", 0, self.file.stat().st_size, flags)
                stream.send(_option_reply(option, _INFO, export))
            known = option in (_GO, _ABORT)
            stream.send(_option_reply(option, _ACK if known else _UNSUPPORTED))
            if known:
                return bool(option == _GO)
        return False

    def _answer_requests(self, stream: _Stream) -> None:
        with self.file.open("r+b", buffering=0) as medium:
            while header := stream.receive(_REQUEST.size):
                _, _, number, handle, offset, size = _REQUEST.unpack(header)
                request = Request(Command(number), offset, size)
                if request.command is Command.DISCONNECT:
                    return
                data = stream.receive(size) if request.command is Command.WRITE else b""
                error = errno.EIO if self.fails(request) else 0
                stream.send(_REPLY.pack(_REPLY_MAGIC, error, handle))
                if error:
                    self.failed.append(request)
                else:
                    stream.send(_carry_out(medium.fileno(), request, data))


def _carry_out(medium: int, request: Request, data: bytes) -> bytes:
    """Do it; what is to be sent behind the reply."""
    if request.command is Command.READ:
        return os.pread(medium, request.size, request.offset)
    if request.command is Command.WRITE:
        os.pwrite(medium, data, request.offset)
    return b""


def _option_reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return _OPTION_REPLY.pack(_OPTION_MAGIC, option, kind, len(data)) + data


class _Stream:
    """Whole messages over a connection that may end anywhere: b"" then."""

    def __init__(self, connection: BufferedRWPair) -> None:
        self._connection = connection

    def receive(self, size: int) -> bytes:
        data = self._connection.read(size)
        return data if len(data) == size else b""

    def send(self, data: bytes) -> None:
        self._connection.write(data)
        self._connection.flush()
