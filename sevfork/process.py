"""The one place that starts processes, on the host and in the guest.

Every call has a deadline, every command is logged in a form that can be pasted into a shell, and
nothing secret may be passed in ``argv``.
"""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from msgspec import Struct

from sevfork.errors import HostCannot, SevforkError, TimedOut

log = logging.getLogger(__name__)

# Started, and never waited for: Python would complain of one that nobody holds.
_left: list[subprocess.Popen[bytes]] = []
# What ``wait`` of a running command raises when it goes on running.
StillRunning = subprocess.TimeoutExpired


class CommandFailed(SevforkError):
    """A command exited non-zero; ``output`` holds what it printed (stdout and stderr)."""

    def __init__(self, argv: Sequence[str], returncode: int, output: str) -> None:
        last = output.strip().splitlines()[-1:] or ["it printed nothing"]
        super().__init__(f"'{argv[0]}' exited with {returncode}: {last[0]}")
        self.returncode = returncode
        self.output = output


class Completed(Struct, frozen=True):
    """What a command printed, and its exit code."""

    stdout: str
    stderr: str
    returncode: int


def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    check: bool = True,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run a command to its end and return what it printed.

    Raises CommandFailed (if ``check``), TimedOut after ``timeout_s`` (the command is killed), and
    HostCannot when the program is not installed.
    """
    words = [os.fspath(word) for word in argv]
    log.debug("+ %s", shlex.join(words))
    try:
        done = subprocess.run(
            words,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout_s,
            env=None if env is None else {**os.environ, **env},
            cwd=cwd,
            pass_fds=pass_fds,
            check=False,
        )
    except FileNotFoundError as exc:
        raise HostCannot(f"'{words[0]}' is not installed") from exc
    except subprocess.TimeoutExpired as exc:
        raise TimedOut(f"'{words[0]}' did not finish in {timeout_s:g} s") from exc
    stdout, stderr = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    if check and done.returncode:
        raise CommandFailed(words, done.returncode, stdout + stderr)
    return Completed(stdout, stderr, done.returncode)


@contextmanager
def spawn(
    argv: Sequence[str | Path],
    *,
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    grace_s: float = 5,
    new_session: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """A running command as a context: it is terminated, then killed, when the block ends."""
    words = [os.fspath(word) for word in argv]
    log.debug("+ %s &", shlex.join(words))
    environment = None if env is None else {**os.environ, **env}
    with subprocess.Popen(
        words,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=environment,
        start_new_session=new_session,
    ) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(grace_s)
                except subprocess.TimeoutExpired:
                    child.kill()


def leave_running(argv: Sequence[str], *, stdin: int, stdout: int) -> int:
    """Start a command that outlives this process, and return its process id."""
    log.debug("+ %s &", shlex.join(argv))
    started = subprocess.Popen(
        argv, stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL, start_new_session=True
    )
    _left.append(started)
    return started.pid
