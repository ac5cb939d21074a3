"""What CRIU 4.2 would lose without a word, or fail to restore: found before a capture.

Each is a finding of a program that held it (``tests/vm/workloads/objects.py``), or of CRIU's own
tests; ``docs/engine.md`` has the whole table.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from sevfork.agent.container.tree import resolve
from sevfork.agent.criu.refusal import Refusal
from sevfork.errors import RefusedByGuest

_PROC = Path("/proc")
_ALL_HOSTS = "010000E0"  # 224.0.0.1, which every interface is in (RFC 1112)
_IN_GROUP = re.compile(r"^\t+([0-9A-F]{8}) ", re.M)
_TIMER_FOR_THREAD = re.compile(r"^notify: \w+/tid\.(\d+)$", re.M)

# Address, references, protocol, flags (accepting), type, state, inode, name: unix(7).
_UNIX_LISTENER = re.compile(r"\w+: \w+ \w+ 00010000 \w+ \w+ +\d+ (/.*)")

SEMAPHORE = Refusal(
    "the workload holds an eventfd with EFD_SEMAPHORE, which CRIU restores without",
    "let it use a pipe, a futex or a POSIX semaphore instead",
)
LEADER_TIMER = Refusal(
    "the workload has a POSIX timer that signals the first thread of a process (SIGEV_THREAD_ID), "
    "which CRIU 4.2 cannot restore",
    "let it use timerfd, or a timer that signals the process",
)
NAMELESS = Refusal(
    "the workload listens on a Unix socket whose name it has deleted, which CRIU loses",
    "let it keep the name, or use an abstract one",
)
MULTICAST = Refusal(
    "the workload is in a multicast group, which CRIU does not restore",
    "let it join when it is told of the fork by an after-fork hook, or not at all",
)
DATAGRAM = Refusal(
    "a datagram waits in a UDP socket of the workload, which CRIU does not restore",
    "try again: it waits until the workload reads it",
)
PERSONALITY = Refusal(
    "the workload runs with another personality (setarch), which CRIU does not restore",
    "start it without",
)


def check(pids: Iterable[str], root: Path) -> None:
    """Raise RefusedByGuest for the first that a process of the container at ``root`` has."""
    for refusal in _all(tuple(pids), root):
        raise RefusedByGuest(refusal.reason, hint=refusal.advice)


def _all(pids: tuple[str, ...], root: Path) -> Iterator[Refusal]:
    yield from _of_the_network()
    if any(not os.path.lexists(root / resolve(root, path)) for path in _unix_listeners()):
        yield NAMELESS
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            yield from _of_process(_PROC / pid)


def _of_the_network() -> Iterator[Refusal]:
    """The workload's alone: nothing else in the guest joins a group."""
    if set(_IN_GROUP.findall((_PROC / "net/igmp").read_text())) - {_ALL_HOSTS}:
        yield MULTICAST


def _unix_listeners() -> Iterator[str]:
    """The absolute names that somebody listens on; all in the guest are the workload's."""
    for line in (_PROC / "net/unix").read_text(errors="surrogateescape").splitlines():
        match = _UNIX_LISTENER.match(line)
        if match:
            yield match[1]


def _of_process(process: Path) -> Iterator[Refusal]:
    if int((process / "personality").read_text(), 16):
        yield PERSONALITY
    if process.name in _TIMER_FOR_THREAD.findall((process / "timers").read_text()):
        yield LEADER_TIMER
    for descriptor in (process / "fd").iterdir():
        with suppress(FileNotFoundError):
            if str(descriptor.readlink()) == "anon_inode:[eventfd]":
                information = (process / "fdinfo" / descriptor.name).read_text()
                if "eventfd-semaphore: 1" in information:
                    yield SEMAPHORE


def datagrams_wait() -> bool:
    """Whether a UDP socket has something that its owner has not read yet: CRIU leaves it out."""
    return any(
        _waiting(table) for table in (_PROC / "net/udp", _PROC / "net/udp6") if table.exists()
    )


def _waiting(table: Path) -> bool:
    """The fifth column is ``tx_queue:rx_queue``, hexadecimal, as in ``/proc/net/tcp``."""
    rows = (line.split() for line in table.read_text().splitlines()[1:])
    return any(int(row[4].split(":")[1], 16) for row in rows)
