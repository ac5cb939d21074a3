"""Signals and timers: blocked, pending, queued, waited for."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time

from .registry import Check, held, libc, same

REAL_TIME = signal.SIGRTMIN + 3
SIGEV_SIGNAL = 0


def _block(*signals: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)


@held
def blocked_and_pending_signal() -> Check:
    _block(signal.SIGUSR2)
    os.kill(os.getpid(), signal.SIGUSR2)

    def check() -> None:
        assert signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert signal.SIGUSR2 in signal.sigpending()

    return check


@held
def queued_real_time_signals() -> Check:
    _block(REAL_TIME)

    def queue() -> None:
        for value in (1, 2):
            libc("sigqueue", os.getpid(), int(REAL_TIME), ctypes.c_void_p(value))

    def check() -> None:
        taken = [signal.sigtimedwait([REAL_TIME], 0) is not None for _ in range(3)]
        queue()
        same(taken, [True, True, False])

    queue()
    return check


@held
def handler_and_ignored_signal() -> Check:
    caught: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _frame: caught.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def check() -> None:
        caught.clear()
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0)
        same(caught, [signal.SIGUSR1])
        same(signal.getsignal(signal.SIGHUP), signal.SIG_IGN)

    return check


@held
def signalfd() -> Check:
    _block(signal.SIGWINCH)
    wanted = ctypes.c_uint64(1 << (signal.SIGWINCH - 1))
    fd = libc("signalfd", -1, ctypes.byref(wanted), os.O_NONBLOCK)
    os.kill(os.getpid(), signal.SIGWINCH)

    def check() -> None:
        (number,) = struct.unpack_from("I", os.read(fd, 128))
        os.kill(os.getpid(), signal.SIGWINCH)
        same(number, signal.SIGWINCH)

    return check


@held
def interval_timer() -> Check:
    signal.setitimer(signal.ITIMER_REAL, 5000, 1000)

    def check() -> None:
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        same(interval, 1000)
        assert 4000 < left <= 5000, f"{left} s are left"

    return check


@held
def posix_timer() -> Check:
    timer = ctypes.c_void_p()
    event = struct.pack("QiiQ40x", 0, int(REAL_TIME) + 1, SIGEV_SIGNAL, 0)
    libc("timer_create", time.CLOCK_MONOTONIC, event, ctypes.byref(timer))
    libc("timer_settime", timer, 0, (ctypes.c_long * 4)(1000, 0, 5000, 0), None)

    def check() -> None:
        now = (ctypes.c_long * 4)()
        libc("timer_gettime", timer, now)
        same(now[0], 1000)
        assert 4000 < now[2] <= 5000, f"{now[2]} s are left"

    return check
