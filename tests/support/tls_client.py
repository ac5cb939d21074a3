"""A TLS client that shows what a library shows nobody: what its peer drew, and its session tickets.

RFC 8446 (TLS 1.3), RFC 5246 and 5077 (TLS 1.2, where a ticket is sent in the clear).
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

_HANDSHAKE, _CHANGE_CIPHER_SPEC = 22, 20
_SERVER_HELLO, _NEW_SESSION_TICKET = 2, 4
_KEY_SHARE = 51
_TICKET_NAME_SIZE = 16

_Result = TypeVar("_Result")


class Version(IntEnum):
    TLS12 = ssl.TLSVersion.TLSv1_2
    TLS13 = ssl.TLSVersion.TLSv1_3


def _context(version: Version) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = ssl.TLSVersion(version)
    return context


# A session can be resumed under the context that it was made under, and no other.
_CONTEXTS = {version: _context(version) for version in Version}


@dataclass(frozen=True)
class Connection:
    """What a server drew for one connection, and what it said behind the handshake."""

    heard: bytes
    said: bytes
    session: ssl.SSLSession | None
    resumed: bool

    @property
    def random(self) -> bytes:
        return self._server_hello[2:34]

    @property
    def key_share(self) -> bytes:
        """Of a ServerHello of TLS 1.3 (RFC 8446, 4.2.8)."""
        body = self._server_hello
        position = 35 + body[34] + 3
        end = position + 2 + struct.unpack_from(">H", body, position)[0]
        position += 2
        while position < end:
            kind, size = struct.unpack_from(">HH", body, position)
            if kind == _KEY_SHARE:
                return body[position + 8 : position + 4 + size]
            position += 4 + size
        raise AssertionError("the server sent no key share: not TLS 1.3")

    @property
    def ticket_name(self) -> bytes:
        """Which key the ticket of a TLS 1.2 server is sealed with (RFC 5077, 4)."""
        (body,) = (body for kind, body in self._messages() if kind == _NEW_SESSION_TICKET)
        return body[6 : 6 + _TICKET_NAME_SIZE]

    @property
    def _server_hello(self) -> bytes:
        kind, body = next(self._messages())
        assert kind == _SERVER_HELLO
        return body

    def _messages(self) -> Iterator[tuple[int, bytes]]:
        """The handshake's messages in the clear: a type, and what follows its length."""
        rest = b"".join(self._clear_records())
        while rest:
            size = int.from_bytes(rest[1:4], "big")
            yield rest[0], rest[4 : 4 + size]
            rest = rest[4 + size :]

    def _clear_records(self) -> Iterator[bytes]:
        rest = self.heard
        while rest and rest[0] != _CHANGE_CIPHER_SPEC:
            assert rest[0] == _HANDSHAKE
            size = int.from_bytes(rest[3:5], "big")
            yield rest[5 : 5 + size]
            rest = rest[5 + size :]


class _Wire:
    """Carries bytes between a connection and a client of ours, and keeps what the server sent."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.received, self.outgoing, self.heard = ssl.MemoryBIO(), ssl.MemoryBIO(), b""

    def until(self, act: Callable[[], _Result]) -> _Result:
        """Do it again until it does not wait for the server any more."""
        while True:
            try:
                return act()
            except ssl.SSLWantReadError:
                self.send()
                data = self._connection.recv(65536)
                assert data, "the server has closed the connection"
                self.heard += data
                self.received.write(data)

    def send(self) -> None:
        self._connection.sendall(self.outgoing.read())


def connect(
    address: tuple[str, int],
    request: bytes = b"",
    *,
    version: Version = Version.TLS13,
    session: ssl.SSLSession | None = None,
) -> Connection:
    """Shake hands, send the request if there is one, and hear what is said first."""
    with socket.create_connection(address, timeout=60) as connection:
        wire = _Wire(connection)
        client = _CONTEXTS[version].wrap_bio(wire.received, wire.outgoing, session=session)
        wire.until(client.do_handshake)
        if request:
            client.write(request)
        wire.send()
        said = wire.until(lambda: client.read(65536))
    return Connection(wire.heard, said, client.session, bool(client.session_reused))
