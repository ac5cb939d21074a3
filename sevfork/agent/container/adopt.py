"""Processes that runc leaves running, as children of the agent, which so learns how they end.

``runc --detach`` ends as soon as the process inside runs, and the kernel gives that process to the
nearest ancestor that asked for orphans. The agent asks while runc is at work and at no other time:
every other orphan of the guest is tini's. Waiting for one process, not for the end of a pipe, is
what lets a command leave a daemon behind.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from msgspec import Struct

from sevfork.deadline import Deadline
from sevfork.errors import SevforkError, TimedOut

_PR_SET_CHILD_SUBREAPER = 36
_KILL_TIMEOUT_S = 10.0
_UNKNOWN = "how the process ended is not known"


class Ended(Struct, frozen=True):
    """How a process ended: its exit status, or less than 0 for a signal."""

    returncode: int

    @property
    def succeeded(self) -> bool:
        return self.returncode == 0

    def __str__(self) -> str:
        if self.returncode >= 0:
            return f"exited with {self.returncode}"
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-self.returncode).name}"
        return f"was ended by signal {-self.returncode}"


@contextmanager
def adopting() -> Iterator[None]:
    """What is orphaned meanwhile among the agent's descendants becomes its child."""
    _ask_for_orphans(True)
    try:
        yield
    finally:
        _ask_for_orphans(False)


def wait(pid: int, deadline: Deadline) -> Ended:
    """How an adopted process ended. Raise TimedOut, and SevforkError for what is no child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError as exc:
        raise SevforkError(_UNKNOWN) from exc
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        if not poller.poll(int(deadline.left_s * 1000)):
            raise TimedOut("the process did not end in time")
    finally:
        os.close(descriptor)
    return _reap(pid)


def look(pid: int) -> Ended | None:
    """How an adopted process ended, or None while it runs. It stays as it is, to be asked again.

    So its number is given to no other process. Raise SevforkError for what is no child.
    """
    try:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError as exc:
        raise SevforkError(_UNKNOWN) from exc
    if found is None:
        return None
    return Ended(found.si_status if found.si_code == os.CLD_EXITED else -found.si_status)


def end(pid: int) -> None:
    """End an adopted process by force, and wait until it is gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        wait(pid, Deadline.after(_KILL_TIMEOUT_S))


def _reap(pid: int) -> Ended:
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError as exc:
        raise SevforkError(_UNKNOWN) from exc
    return Ended(os.waitstatus_to_exitcode(status))


def _ask_for_orphans(wanted: bool) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0):
        raise SevforkError(f"prctl: {os.strerror(ctypes.get_errno())}")
