"""Holds one of each kernel object, and answers with all that can be asked of them.

GET /    a document that must be the same in a child and in a grandchild
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

HOME = Path("/var/lib/workload")
TCP, UDP, IP = socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_IP
F_SETSIG, F_GETSIG, F_SETPIPE_SZ, F_GETPIPE_SZ = 10, 11, 1031, 1032
F_ADD_SEALS, F_GET_SEALS, FIONREAD = 1033, 1034, 0x541B
PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_SET_NAME = 1, 2, 15
PR_SET_TIMERSLACK, PR_GET_TIMERSLACK = 29, 30
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
LISTENER_OPTIONS = {
    "TCP_MAXSEG": (TCP, 2, 1000),
    "TCP_KEEPIDLE": (TCP, 4, 77),
    "TCP_SYNCNT": (TCP, 7, 4),
    "TCP_LINGER2": (TCP, 8, 20),
    "TCP_DEFER_ACCEPT": (TCP, 9, 3),
    "TCP_USER_TIMEOUT": (TCP, 18, 12345),
    "TCP_FASTOPEN": (TCP, 23, 5),
    "TCP_NOTSENT_LOWAT": (TCP, 25, 9999),
    "IP_TTL": (IP, 2, 33),
    "IP_RECVERR": (IP, 11, 1),
    "SO_KEEPALIVE": (socket.SOL_SOCKET, 9, 1),
    "SO_TIMESTAMP": (socket.SOL_SOCKET, 29, 1),
}
DATAGRAM_OPTIONS = {
    "IP_MTU_DISCOVER": (IP, 10, 2),
    "IP_RECVTTL": (IP, 12, 1),
    "IP_RECVTOS": (IP, 13, 1),
    "IP_MULTICAST_TTL": (IP, 33, 9),
    "IP_MULTICAST_LOOP": (IP, 34, 0),
    "SO_BROADCAST": (socket.SOL_SOCKET, 6, 1),
    "SO_TIMESTAMPNS": (socket.SOL_SOCKET, 35, 1),
    "UDP_SEGMENT": (UDP, 103, 500),
    "UDP_GRO": (UDP, 104, 1),
}
STATUS = {"Name", "Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "CapEff", "CapBnd"}
STATUS |= {"SigIgn", "SigBlk", "SigCgt", "ShdPnd", "SigPnd", "VmLck"}

libc = ctypes.CDLL(None, use_errno=True)
asked: dict[str, Callable[[], object]] = {}
held: list[object] = []


def about(descriptor: int) -> list[str]:
    """What the kernel says of it, but for numbers that are new in every guest."""
    lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    return sorted(line for line in lines if not line.startswith(("mnt_id", "ino", "eventfd-id")))


def waiting(descriptor: int) -> int:
    return int(struct.unpack("i", fcntl.ioctl(descriptor, FIONREAD, bytes(4)))[0])


def owner(descriptor: int) -> tuple[int, int, int]:
    status = os.fstat(descriptor)
    return status.st_uid, status.st_gid, status.st_mode


def make_pipes() -> None:
    read, write = os.pipe()
    os.write(write, b"in the pipe")
    os.fchmod(read, 0o640)
    fcntl.fcntl(write, F_SETPIPE_SZ, 1 << 17)
    fcntl.fcntl(read, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(read, F_SETSIG, signal.SIGUSR2)
    asked["pipe"] = lambda: (fcntl.fcntl(write, F_GETPIPE_SZ), waiting(read), owner(read))
    asked["pipe's signal"] = lambda: (
        fcntl.fcntl(read, fcntl.F_GETOWN),
        fcntl.fcntl(read, F_GETSIG),
    )
    asked["pipe opened again"] = lambda: reopened(write)
    asked["flags"] = lambda: [fcntl.fcntl(end, fcntl.F_GETFL) for end in (read, write)]


def reopened(descriptor: int) -> str:
    """As a program does that writes to ``/dev/stdout``."""
    os.close(os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY))
    return "opened"


def make_sockets() -> None:
    listener, datagrams = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", 0))
    datagrams.bind(("127.0.0.1", 0))
    for endpoint, options in ((listener, LISTENER_OPTIONS), (datagrams, DATAGRAM_OPTIONS)):
        for name, (level, number, value) in options.items():
            endpoint.setsockopt(level, number, value)
            asked[name] = lambda e=endpoint, a=(level, number): e.getsockopt(*a, 16).hex()  # type: ignore[misc]
    listener.listen(7)
    asked["addresses"] = lambda: (listener.getsockname(), datagrams.getsockname())
    held.extend((listener, datagrams))


def make_unix_sockets() -> None:
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.send(b"a datagram that waits")
    first, second = socket.socketpair()
    first.send(b"a stream")
    named, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    named.bind(str(HOME / "socket"))
    abstract.bind("\0sevfork-test")
    named.listen(3)
    abstract.listen(3)
    asked["unix"] = lambda: (waiting(receiver.fileno()), waiting(second.fileno()))
    asked["unix names"] = lambda: (named.getsockname(), abstract.getsockname().decode())
    held.extend((sender, first))


def make_anonymous_files() -> None:
    event, memory = os.eventfd(5), os.memfd_create("memory", os.MFD_ALLOW_SEALING)
    os.write(memory, b"x" * 5000)
    fcntl.fcntl(memory, F_ADD_SEALS, 2)
    timer = libc.timerfd_create(time.CLOCK_MONOTONIC, 0)
    libc.timerfd_settime(timer, 0, (ctypes.c_long * 4)(0, 0, 100_000, 0), None)
    poll = select.epoll()
    poll.register(event, select.EPOLLIN | select.EPOLLET)
    process = os.pidfd_open(os.getpid())
    asked["eventfd"] = lambda: about(event)
    asked["memfd"] = lambda: (owner(memory), os.fstat(memory).st_size)
    asked["memfd's seals"] = lambda: fcntl.fcntl(memory, F_GET_SEALS)
    asked["timerfd"] = lambda: [line for line in about(timer) if "it_value" not in line]
    asked["epoll"] = lambda: [line for line in about(poll.fileno()) if "tfd" not in line]
    asked["pidfd"] = lambda: [line for line in about(process) if line.startswith("NSpid")]


def make_process_state() -> None:
    libc.prctl(PR_SET_TIMERSLACK, 123_456, 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGUSR1, 0, 0, 0)
    libc.prctl(PR_SET_NAME, b"objects", 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    os.kill(os.getpid(), signal.SIGUSR1)
    os.umask(0o027)
    shared = mmap.mmap(-1, 1 << 20)
    shared[:6] = b"shared"
    held.append(threading.Thread(target=time.sleep, args=(10**6,), daemon=True))
    asked["timer slack"] = lambda: libc.prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0)
    asked["subreaper"] = lambda: prctl_value(PR_GET_CHILD_SUBREAPER)
    asked["death signal"] = lambda: prctl_value(PR_GET_PDEATHSIG)
    asked["signals pending"] = lambda: sorted(map(int, signal.sigpending()))
    asked["shared memory"] = lambda: shared[:6].decode()
    asked["status"] = lambda: [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.split(":")[0] in STATUS
    ]
    asked["limits"] = Path("/proc/self/limits").read_text


def prctl_value(option: int) -> int:
    value = ctypes.c_int()
    libc.prctl(option, ctypes.byref(value), 0, 0, 0)
    return value.value


def answer(question: Callable[[], object]) -> object:
    try:
        return question()
    except OSError as exc:
        return repr(exc)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers = {name: answer(question) for name, question in asked.items()}
        body = json.dumps(answers).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    for make in (make_pipes, make_sockets, make_unix_sockets, make_anonymous_files):
        make()
    make_process_state()
    HTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()  # noqa: S104
