"""How a process that runc left running ended, without being its parent by birth."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sevfork.agent.container import adopt
from sevfork.agent.container.adopt import Ended
from sevfork.deadline import Deadline
from sevfork.errors import SevforkError, TimedOut

# Starts a command of its own and ends at once, as ``runc --detach`` does.
DETACH = """
import os, sys
to_stderr = [(os.POSIX_SPAWN_DUP2, 2, 1)]
print(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=to_stderr))
"""


def detached(*command: str) -> int:
    with adopt.adopting():
        words = [sys.executable, "-c", DETACH, *command]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


@pytest.mark.own_processes
def test_the_exit_status_of_an_orphan_is_known() -> None:
    ended = adopt.wait(detached("/bin/sh", "-c", "exit 7"), Deadline.after(60))
    assert (ended, str(ended)) == (Ended(7), "exited with 7")


@pytest.mark.own_processes
def test_the_signal_that_ended_an_orphan_is_known() -> None:
    ended = adopt.wait(detached("/bin/sh", "-c", "kill -SEGV $$"), Deadline.after(60))
    assert (ended, str(ended)) == (Ended(-signal.SIGSEGV), "was ended by SIGSEGV")


@pytest.mark.own_processes
def test_only_the_process_itself_is_waited_for(tmp_path: Path) -> None:
    script = f"sleep 300 & echo $! > {tmp_path}/daemon"
    ended = adopt.wait(detached("/bin/sh", "-c", script), Deadline.after(60))
    daemon = int((tmp_path / "daemon").read_text())
    os.kill(daemon, signal.SIGKILL)  # raises if the daemon had been ended, too
    assert ended == Ended(0)


@pytest.mark.own_processes
def test_one_that_goes_on_is_late_and_can_be_ended() -> None:
    pid = detached("/bin/sleep", "300")
    with pytest.raises(TimedOut):
        adopt.wait(pid, Deadline.after(0.05))
    adopt.end(pid)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_nothing_is_known_of_a_stranger() -> None:
    with pytest.raises(SevforkError, match="not known"):
        adopt.wait(2**22 - 1, Deadline.after(1))


def test_a_signal_without_a_name_has_its_number() -> None:
    assert str(Ended(-63)) == "was ended by signal 63"


@pytest.mark.own_processes
def test_how_it_ended_can_be_looked_at_again_until_it_is_waited_for() -> None:
    pid = detached("/bin/sh", "-c", "kill -KILL $$")
    deadline = Deadline.after(60)
    while adopt.look(pid) is None and not deadline.passed:
        """It still runs."""
    assert adopt.look(pid) == adopt.look(pid) == Ended(-signal.SIGKILL)
    assert adopt.wait(pid, deadline) == Ended(-signal.SIGKILL)
    with pytest.raises(SevforkError, match="not known"):
        adopt.look(pid)


@pytest.mark.own_processes
def test_one_that_goes_on_has_not_ended() -> None:
    pid = detached("/bin/sleep", "300")
    assert adopt.look(pid) is None
    adopt.end(pid)
