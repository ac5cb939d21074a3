"""What a process is: limits, masks, names, priorities, threads, children."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import threading
import time
from pathlib import Path

from .registry import Check, held, libc, same

PR_SET_PDEATHSIG, PR_GET_PDEATHSIG = 1, 2
PR_SET_NAME = 15
PR_SET_TIMERSLACK, PR_GET_TIMERSLACK = 29, 30
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
PR_SET_THP_DISABLE, PR_GET_THP_DISABLE = 41, 42
ADDR_NO_RANDOMIZE, PER_QUERY = 0x0040000, 0xFFFFFFFF
SAID_OF_A_PROCESS = {"Name", "Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "VmLck"}
SAID_OF_A_PROCESS |= {"SigIgn", "SigBlk", "SigCgt", "ShdPnd", "SigPnd", "CapEff", "CapBnd"}
IOPRIO_SET, IOPRIO_GET, IDLE_CLASS = 251, 252, 3 << 13


def _prctl_int(option: int) -> int:
    value = ctypes.c_int(-1)
    libc("prctl", option, ctypes.byref(value), 0, 0, 0)
    return value.value


@held
def resource_limits() -> Check:
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, 600))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 1 << 20))

    def check() -> None:
        same(resource.getrlimit(resource.RLIMIT_NOFILE), (500, 600))
        same(resource.getrlimit(resource.RLIMIT_CORE), (0, 1 << 20))

    return check


@held
def umask() -> Check:
    os.umask(0o027)

    def check() -> None:
        now = os.umask(0o027)
        same(now, 0o027)

    return check


@held
def priorities() -> Check:
    os.nice(5)
    libc("syscall", IOPRIO_SET, 1, 0, IDLE_CLASS)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

    def check() -> None:
        same(os.getpriority(os.PRIO_PROCESS, 0), 5)
        same(os.sched_getscheduler(0), os.SCHED_BATCH)

    return check


@held
def input_and_output_priority() -> Check:
    libc("syscall", IOPRIO_SET, 1, 0, IDLE_CLASS)
    return lambda: same(libc("syscall", IOPRIO_GET, 1, 0), IDLE_CLASS)


@held
def timer_slack() -> Check:
    libc("prctl", PR_SET_TIMERSLACK, ctypes.c_ulong(123456), 0, 0, 0)
    return lambda: same(libc("prctl", PR_GET_TIMERSLACK, 0, 0, 0, 0), 123456)


@held
def reaper_of_orphans() -> Check:
    libc("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return lambda: same(_prctl_int(PR_GET_CHILD_SUBREAPER), 1)


@held
def no_huge_pages() -> Check:
    libc("prctl", PR_SET_THP_DISABLE, 1, 0, 0, 0)
    return lambda: same(libc("prctl", PR_GET_THP_DISABLE, 0, 0, 0, 0), 1)


@held
def signal_at_the_parents_death() -> Check:
    """Of a child: the first process's parent is not the workload's."""
    asking, answering = socket.socketpair()
    if not os.fork():
        libc("prctl", PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        while answering.recv(1):
            answering.send(bytes([_prctl_int(PR_GET_PDEATHSIG)]))
        os._exit(0)

    def check() -> None:
        asking.send(b"?")
        same(asking.recv(1), bytes([signal.SIGTERM]))

    return check


@held
def signal_at_the_death_of_the_first_processs_parent() -> Check:
    libc("prctl", PR_SET_PDEATHSIG, int(signal.SIGUSR1), 0, 0, 0)
    return lambda: same(_prctl_int(PR_GET_PDEATHSIG), signal.SIGUSR1)


@held
def what_proc_says_of_the_process() -> Check:
    """Compared with what it said at the first check: objects made later change it."""
    libc("prctl", PR_SET_NAME, b"objects", 0, 0, 0)
    at_first: list[tuple[str, ...]] = []

    def now() -> tuple[str, ...]:
        status = Path("/proc/self/status").read_text().splitlines()
        kept = (line for line in status if line.split(":")[0] in SAID_OF_A_PROCESS)
        return *kept, Path("/proc/self/limits").read_text()

    def check() -> None:
        if not at_first:
            at_first.append(now())
        same(now(), at_first[0])
        same(now()[0], "Name:\tobjects")

    return check


@held
def credentials_and_places() -> Check:
    def now() -> tuple[object, ...]:
        links = [Path("/proc/self", name).readlink() for name in ("cwd", "exe", "root")]
        status = Path("/proc/self/status").read_text().splitlines()
        kept = [
            line for line in status if line.startswith(("Uid", "Gid", "Groups", "Cap", "NoNew"))
        ]
        return os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0), links, kept

    want = now()
    return lambda: same(now(), want)


@held
def affinity() -> Check:
    want = os.sched_getaffinity(0)
    return lambda: same(os.sched_getaffinity(0), want)


@held
def threads_with_names_and_masks() -> Check:
    counts = [0, 0]

    def run(index: int) -> None:
        libc("prctl", PR_SET_NAME, f"worker-{index}".encode(), 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        while True:
            counts[index] += 1
            time.sleep(0.01)

    # What is sent to the process is for the first thread: these begin with all blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    for index in (0, 1):
        threading.Thread(target=run, args=(index,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def check() -> None:
        tasks = list(Path("/proc/self/task").iterdir())
        names = {(task / "comm").read_text().strip(): task for task in tasks}
        assert {"worker-0", "worker-1"} <= set(names), f"{sorted(names)}"
        blocked = int((names["worker-1"] / "status").read_text().split("SigBlk:\t")[1][:16], 16)
        assert blocked >> (signal.SIGUSR2 - 1) & 1, f"{blocked:x}"
        assert not blocked >> (signal.SIGALRM - 1) & 1, f"{blocked:x}"
        earlier = list(counts)
        time.sleep(0.2)
        assert all(now > then for now, then in zip(counts, earlier, strict=True)), (
            "they stand still"
        )

    return check


@held
def stopped_child_and_zombie() -> Check:
    stopped = os.fork()
    if not stopped:
        while True:
            signal.pause()
    os.kill(stopped, signal.SIGSTOP)
    zombie = os.fork()
    if not zombie:
        os._exit(7)

    def state(pid: int) -> str:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]

    def check() -> None:
        same((state(stopped), state(zombie)), ("T", "Z"))

    time.sleep(0.2)
    return check


@held
def own_process_descriptor() -> Check:
    fd = os.pidfd_open(os.getpid())

    def check() -> None:
        info = Path(f"/proc/self/fdinfo/{fd}").read_text()
        assert f"NSpid:\t{os.getpid()}\n" in info, info

    return check


@held
def process_descriptor() -> Check:
    child = os.fork()
    if not child:
        while True:
            signal.pause()
    fd = os.pidfd_open(child)

    def check() -> None:
        signal.pidfd_send_signal(fd, 0)
        assert f"Pid:\t{child}\n" in Path(f"/proc/self/fdinfo/{fd}").read_text()

    return check
