"""What processes talk through: pipes, counters, queues, shared memory."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import struct
import time
from pathlib import Path

from .registry import Check, held, libc, same

IPC_CREAT, IPC_NOWAIT = 0o1000, 0o4000
SETVAL, GETVAL = 16, 12
F_SETSIG, F_GETSIG = 10, 11
OWN_IDS = os.getuid(), os.getgid()


@held
def pipe_with_data() -> Check:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1 << 17)
    os.write(writing, b"queued")

    def check() -> None:
        same(fcntl.fcntl(reading, fcntl.F_GETPIPE_SZ), 1 << 17)
        same(os.read(reading, 100), b"queued")
        os.write(writing, b"queued")

    return check


@held
def pipe_with_a_mode_an_owner_and_a_signal() -> Check:
    reading, writing = os.pipe()
    os.fchmod(reading, 0o640)
    fcntl.fcntl(reading, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(reading, F_SETSIG, signal.SIGUSR2)

    def check() -> None:
        status = os.fstat(reading)
        same((status.st_mode & 0o7777, status.st_uid, status.st_gid), (0o640, *OWN_IDS))
        same(fcntl.fcntl(reading, fcntl.F_GETOWN), os.getpid())
        same(fcntl.fcntl(reading, F_GETSIG), signal.SIGUSR2)
        flags = [fcntl.fcntl(end, fcntl.F_GETFL) & os.O_ACCMODE for end in (reading, writing)]
        same(flags, [os.O_RDONLY, os.O_WRONLY])

    return check


@held
def own_pipe_opened_again() -> Check:
    """As a shell's /dev/stdout does."""
    reading, writing = os.pipe()

    def check() -> None:
        with Path(f"/proc/self/fd/{writing}").open("wb") as again:
            again.write(b"through /proc")
        same(os.read(reading, 100), b"through /proc")

    return check


@held
def eventfd() -> Check:
    fd = os.eventfd(7, os.EFD_NONBLOCK)

    def check() -> None:
        same(os.eventfd_read(fd), 7)
        os.eventfd_write(fd, 7)
        same(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK, os.O_NONBLOCK)

    return check


@held
def timerfd() -> Check:
    fd = libc("timerfd_create", time.CLOCK_MONOTONIC, os.O_NONBLOCK)
    when = (ctypes.c_long * 4)(1000, 0, 5000, 0)  # every 1000 s, first in 5000 s
    libc("timerfd_settime", fd, 0, when, None)

    def check() -> None:
        now = (ctypes.c_long * 4)()
        libc("timerfd_gettime", fd, now)
        same(now[0], 1000)
        assert 4000 < now[2] <= 5000, f"{now[2]} s are left"

    return check


@held
def epoll() -> Check:
    reading, writing = os.pipe()
    os.write(writing, b"x")
    waiting = select.epoll()
    waiting.register(reading, select.EPOLLIN | select.EPOLLPRI)
    waiting.register(writing, select.EPOLLIN | select.EPOLLET)

    def targets() -> list[str]:
        info = Path(f"/proc/self/fdinfo/{waiting.fileno()}").read_text().splitlines()
        return sorted(line.split("pos:")[0] for line in info if line.startswith("tfd:"))

    want = targets()

    def check() -> None:
        same(waiting.poll(0), [(reading, select.EPOLLIN)])
        same(targets(), want)

    return check


@held
def system_v_shared_memory() -> Check:
    identifier = libc("shmget", 0x5F01, 8192, IPC_CREAT | 0o600)
    attach = ctypes.CDLL(None).shmat
    attach.restype = ctypes.c_void_p
    address = attach(identifier, None, 0)
    ctypes.memmove(address, b"shared", 6)

    def check() -> None:
        same(ctypes.string_at(address, 6), b"shared")
        same(libc("shmget", 0x5F01, 8192, 0), identifier)

    return check


@held
def system_v_semaphore() -> Check:
    identifier = libc("semget", 0x5F02, 2, IPC_CREAT | 0o600)
    libc("semctl", identifier, 1, SETVAL, 5)

    def check() -> None:
        same(libc("semget", 0x5F02, 2, 0), identifier)
        same([libc("semctl", identifier, index, GETVAL) for index in (0, 1)], [0, 5])

    return check


@held
def system_v_messages() -> Check:
    identifier = libc("msgget", 0x5F03, IPC_CREAT | 0o600)
    messages = [struct.pack("l6s2x", kind, text) for kind, text in ((2, b"second"), (1, b"first."))]

    def send() -> None:
        for message in messages:
            libc("msgsnd", identifier, message, 8, IPC_NOWAIT)

    def check() -> None:
        same(libc("msgget", 0x5F03, 0), identifier)
        received = [ctypes.create_string_buffer(16) for _ in messages]
        for buffer in received:
            libc("msgrcv", identifier, buffer, 8, ctypes.c_long(0), IPC_NOWAIT)
        send()
        same([buffer.raw for buffer in received], messages)

    send()
    return check
