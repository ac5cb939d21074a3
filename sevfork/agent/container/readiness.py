"""When a workload is ready, and what is said of one that does not become so."""

from __future__ import annotations

import shlex
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from sevfork.agent.container.adopt import Ended
from sevfork.agent.workload import Workload
from sevfork.deadline import Deadline
from sevfork.errors import SevforkError, TimedOut, WrongState

_POLL_S = 0.05
_COMMAND_S = 30.0


class Started(Protocol):
    """A container in which a workload was started."""

    @property
    def is_running(self) -> bool: ...

    def ended(self) -> Ended: ...

    def exec(self, argv: Sequence[str], *, timeout_s: float, drop: bool = False) -> Ended: ...

    def last_words(self) -> str: ...


def wait(started: Started, workload: Workload, timeout_s: float) -> None:
    """Until the workload answers. Raise TimedOut, or WrongState when it has ended."""
    deadline = Deadline.after(timeout_s)
    while not _is_ready(started, workload):
        if not started.is_running:
            ended = f"the workload '{workload.name}' ended before it was ready"
            how = _how_it_ended(started, workload)
            raise WrongState(f"{ended}: {how}", printed=started.last_words())
        if deadline.passed:
            raise _late(started, workload)
        time.sleep(_POLL_S)


def _is_ready(started: Started, workload: Workload) -> bool:
    if workload.ready.tcp is not None:
        return _accepts(workload.ready.tcp)
    command = workload.ready.command or ()
    with suppress(TimedOut):
        return started.exec(command, timeout_s=_COMMAND_S, drop=True).succeeded
    return False


def _accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _late(started: Started, workload: Workload) -> TimedOut:
    """What a command that is asked again and again prints is dropped, but for once at the end."""
    late, asked = f"the workload '{workload.name}' was not ready in time", ""
    if workload.ready.command:
        with suppress(SevforkError):
            ended = started.exec(workload.ready.command, timeout_s=_COMMAND_S)
            asked = f": {shlex.join(workload.ready.command)} {ended}"
    return TimedOut(late + asked, printed=started.last_words())


def _how_it_ended(started: Started, workload: Workload) -> str:
    command = shlex.join(workload.command)
    try:
        ended = started.ended()
    except SevforkError as exc:
        return f"{command}: {exc.message}"
    advice = "" if ended.returncode else ", but has to stay in the foreground"
    return f"{command} {ended}{advice}"
