"""Sockets: Unix, TCP that listens, UDP; what is queued in them, and their options."""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Callable
from functools import partial

from .registry import FOLDER, Check, held, same

TCP, UDP, IP = socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_IP
SOCKET = socket.SOL_SOCKET
GROUP = "239.1.2.3"


def _queued(kind: socket.SocketKind) -> Check:
    left, right = socket.socketpair(socket.AF_UNIX, kind)
    messages = [b"first", b"second"]

    def send() -> None:
        for message in messages:
            left.send(message)

    def check() -> None:
        if kind is socket.SOCK_STREAM:
            received = [right.recv(len(message)) for message in messages]
        else:
            received = [right.recv(100) for _ in messages]
        send()
        same(received, messages)

    send()
    return check


@held
def unix_stream_with_data() -> Check:
    return _queued(socket.SOCK_STREAM)


@held
def unix_datagrams() -> Check:
    return _queued(socket.SOCK_DGRAM)


@held
def unix_packets() -> Check:
    return _queued(socket.SOCK_SEQPACKET)


@held
def descriptor_on_its_way() -> Check:
    left, right = socket.socketpair()
    reading, writing = os.pipe()

    def send() -> None:
        rights = [(SOCKET, socket.SCM_RIGHTS, array.array("i", [writing]))]
        left.sendmsg([b"!"], rights)

    def check() -> None:
        _, ancillary, _, _ = right.recvmsg(1, socket.CMSG_SPACE(4))
        (fd,) = struct.unpack("i", ancillary[0][2])
        os.write(fd, b"through it")
        os.close(fd)
        send()
        same(os.read(reading, 100), b"through it")

    send()
    return check


def _answers(listening: socket.socket, address: object) -> None:
    with socket.socket(listening.family, socket.SOCK_STREAM) as client:
        client.connect(address)  # type: ignore[arg-type]
        server, _ = listening.accept()
        with server:
            server.sendall(b"hello")
            same(client.recv(100), b"hello")


@held
def unix_listener() -> Check:
    path = str(FOLDER / "listening")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(3)
    return lambda: _answers(listening, path)


@held
def unix_connection_not_yet_accepted() -> Check:
    path = str(FOLDER / "pending-with-client")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(3)
    clients = [socket.socket(socket.AF_UNIX)]

    def connect() -> None:
        clients[0] = socket.socket(socket.AF_UNIX)
        clients[0].connect(path)

    def check() -> None:
        server, _ = listening.accept()
        with server:
            clients[0].sendall(b"hello")
            same(server.recv(100), b"hello")
            server.sendall(b"welcome")
        same(clients[0].recv(100), b"welcome")
        connect()

    connect()
    return check


@held
def unix_listener_without_a_path() -> Check:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("\0abstract")
    listening.listen(3)
    return lambda: _answers(listening, "\0abstract")


@held
def unix_listener_whose_path_was_replaced() -> Check:
    path = str(FOLDER / "replaced")
    stale, fresh = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    for each in (stale, fresh):
        each.bind(path)
        each.listen(3)
        if each is stale:
            os.unlink(path)  # noqa: PTH108

    def check() -> None:
        same((stale.getsockname(), fresh.getsockname()), (path, path))
        same(stale.getsockopt(SOCKET, socket.SO_ACCEPTCONN), 1)
        _answers(fresh, path)

    return check


@held
def tcp_listener() -> Check:
    listening = socket.create_server(("127.0.0.1", 0), backlog=17)
    address = listening.getsockname()
    return lambda: _answers(listening, address)


def _option(kind: socket.SocketKind, level: int, option: int, value: int) -> Check:
    endpoint = socket.socket(type=kind)
    endpoint.bind(("127.0.0.1", 0))
    endpoint.setsockopt(level, option, value)
    if kind is socket.SOCK_STREAM:
        endpoint.listen(5)
    want = endpoint.getsockopt(level, option, 16)
    return lambda: same(endpoint.getsockopt(level, option, 16), want)


def _options() -> dict[str, Callable[[], Check]]:
    chosen = {
        "defer_accept": (TCP, socket.TCP_DEFER_ACCEPT, 30),
        "user_timeout": (TCP, socket.TCP_USER_TIMEOUT, 12345),
        "fast_open": (TCP, socket.TCP_FASTOPEN, 5),
        "linger2": (TCP, socket.TCP_LINGER2, 17),
        "no_delay": (TCP, socket.TCP_NODELAY, 1),
        "keep_alive": (SOCKET, socket.SO_KEEPALIVE, 1),
        "keep_idle": (TCP, socket.TCP_KEEPIDLE, 77),
        "keep_interval": (TCP, socket.TCP_KEEPINTVL, 11),
        "keep_count": (TCP, socket.TCP_KEEPCNT, 4),
        "maximum_segment": (TCP, socket.TCP_MAXSEG, 1000),
        "reuse_address": (SOCKET, socket.SO_REUSEADDR, 1),
        "reuse_port": (SOCKET, socket.SO_REUSEPORT, 1),
        "receive_buffer": (SOCKET, socket.SO_RCVBUF, 50_000),
        "send_buffer": (SOCKET, socket.SO_SNDBUF, 50_000),
        "receive_timeout": (SOCKET, socket.SO_RCVLOWAT, 3),
        "type_of_service": (IP, socket.IP_TOS, 0x10),
        "time_to_live": (IP, socket.IP_TTL, 33),
        "connection_attempts": (TCP, socket.TCP_SYNCNT, 4),
        "not_sent_low_water": (TCP, 25, 9999),
        "errors_received": (IP, 11, 1),
        "time_stamps": (SOCKET, 29, 1),
    }
    of_datagrams = {
        "path_mtu_discovery": (IP, 10, 2),
        "time_to_live_received": (IP, 12, 1),
        "type_of_service_received": (IP, socket.IP_RECVTOS, 1),
        "multicast_time_to_live": (IP, socket.IP_MULTICAST_TTL, 9),
        "multicast_loop": (IP, socket.IP_MULTICAST_LOOP, 0),
        "time_stamps_in_nanoseconds": (SOCKET, 35, 1),
        "segment_size": (UDP, 103, 500),
        "segments_received_as_one": (UDP, 104, 1),
    }
    streams, datagrams = partial(_option, socket.SOCK_STREAM), partial(_option, socket.SOCK_DGRAM)
    makers: dict[str, Callable[[], Check]] = {
        f"tcp_{name}": partial(streams, *option) for name, option in chosen.items()
    }
    makers |= {f"udp_{name}": partial(datagrams, *option) for name, option in of_datagrams.items()}
    return makers


for _name, _maker in _options().items():
    _maker.__name__ = _name
    held(_maker)


@held
def udp_socket() -> Check:
    bound = socket.socket(type=socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 0))
    bound.setsockopt(SOCKET, socket.SO_BROADCAST, 1)
    connected = socket.socket(type=socket.SOCK_DGRAM)
    connected.connect(bound.getsockname())

    def check() -> None:
        same(bound.getsockopt(SOCKET, socket.SO_BROADCAST), 1)
        connected.send(b"datagram")
        same(bound.recvfrom(100), (b"datagram", connected.getsockname()))

    return check
