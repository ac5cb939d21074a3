"""What CRIU cannot carry: a fork has to say so before anything of it is lost."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import threading
import time

from .registry import FOLDER, Check, asked_for, libc, same

SIGEV_THREAD_ID = 4
SIGRTMIN = 34


class Descriptor:
    """Closed when nobody holds it any more."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __call__(self) -> None:
        os.fstat(self.fd)

    def __del__(self) -> None:
        os.close(self.fd)


@asked_for
def pipe_in_packets() -> Check:
    reading, writing = os.pipe2(os.O_DIRECT)
    ends = Descriptor(reading), Descriptor(writing)

    def check() -> None:
        for end in ends:
            end()

    return check


@asked_for
def eventfd_as_semaphore() -> Check:
    """CRIU restores it without EFD_SEMAPHORE."""
    return Descriptor(os.eventfd(3, os.EFD_NONBLOCK | os.EFD_SEMAPHORE))


@asked_for
def multicast_group() -> Check:
    """CRIU does not join it again."""
    member = socket.socket(type=socket.SOCK_DGRAM)
    member.bind(("", 0))
    request = socket.inet_aton("239.1.2.3") + socket.inet_aton("127.0.0.1")
    member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    return lambda: same(member.type, socket.SOCK_DGRAM)


@asked_for
def datagram_that_waits() -> Check:
    """CRIU drops what is queued in a UDP socket."""
    bound = socket.socket(type=socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 0))
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.sendto(b"queued", bound.getsockname())
    return lambda: same(bound.recv(100, socket.MSG_PEEK), b"queued")


@asked_for
def posix_message_queue() -> Check:
    fd = libc("mq_open", b"/queue", os.O_RDWR | os.O_CREAT, 0o600, None)
    libc("mq_unlink", b"/queue")
    return Descriptor(fd)


def _connection(name: str) -> tuple[socket.socket, socket.socket]:
    """A listener, and a client that it has not accepted, which has sent something."""
    path = FOLDER / name
    path.unlink(missing_ok=True)
    listening, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(3)
    client.connect(str(path))
    client.sendall(b"hello")
    return listening, client


def _waits(listening: socket.socket) -> None:
    assert select.select([listening], [], [], 0)[0], "nobody waits to be accepted"


@asked_for
def unix_connection_with_data_not_yet_accepted() -> Check:
    both = _connection("pending")
    return lambda: _waits(both[0])


@asked_for
def unix_connection_whose_client_has_gone() -> Check:
    listening, client = _connection("pending-alone")
    client.close()
    return lambda: _waits(listening)


@asked_for
def posix_timer_of_the_first_thread() -> Check:
    """CRIU issue 2887: dumped, and then no restore succeeds."""
    timer = ctypes.c_void_p()
    thread = threading.main_thread().native_id or 0
    event = struct.pack("QiiI44x", 0, SIGRTMIN + 5, SIGEV_THREAD_ID, thread)
    libc("timer_create", time.CLOCK_MONOTONIC, event, ctypes.byref(timer))

    class Timer:
        def __call__(self) -> None:
            pass

        def __del__(self) -> None:
            libc("timer_delete", timer)

    return Timer()
