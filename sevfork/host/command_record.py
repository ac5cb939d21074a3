"""The host's own record of commands: a line for each in the journal, or in syslog.

A datagram as syslog(3) sends it. The standard library's handler would print its own failures, and
connects again to a log that does not read, without a limit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from sevfork.errors import SevforkError

log = logging.getLogger(__name__)

SOCKET = Path("/dev/log")
_USER_NOTICE = 13  # facility 1, severity 5 (RFC 3164)
_LIMIT_CHARACTERS = 1000
_PATIENCE_S = 1.0


@contextlib.contextmanager
def recorded(verb: str, vms: Sequence[str]) -> Iterator[None]:
    """Say at the end which command it was, of which VMs, how it ended, and who ran it."""
    ended = "done"
    try:
        yield
    except SevforkError as exc:
        ended = f"exit code {exc.exit_code}"
        raise
    except BaseException as exc:
        ended = f"ended by {type(exc).__name__}"
        raise
    finally:
        write(f"{verb} {' '.join(vms)}: {ended} (uid {os.getuid()})")


def write(line: str) -> None:
    """Where there is a log: a command that has done its work does not fail for this."""
    shown = "".join(char if char.isprintable() else " " for char in line)[:_LIMIT_CHARACTERS]
    datagram = f"<{_USER_NOTICE}>sevfork[{os.getpid()}]: {shown}"
    if not SOCKET.exists():
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
            journal.settimeout(_PATIENCE_S)
            journal.connect(str(SOCKET))
            journal.send(datagram.encode("utf-8", "backslashreplace"))
    except OSError as exc:
        log.debug("not written to %s: %s", SOCKET, exc)
