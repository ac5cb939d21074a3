"""Who makes a VM, and whether that process lives: it tells half-made VMs from young ones."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
from pathlib import Path

from sevfork.domain.metadata import Maker

_PROC = Path("/proc")
MACHINE_ID = Path("/etc/machine-id")
_TAG = re.compile(
    r"\bm(?P<host>[0-9a-f]{8})-(?P<boot>[0-9a-f]{8})-(?P<pid>[0-9]+)-(?P<start>[0-9]+)\b"
)


def this_process() -> Maker:
    """The process that runs, as it is written into the VMs that it makes."""
    pid = os.getpid()
    start = start_time(pid)
    if start is None:
        raise RuntimeError("a running process is not in /proc")
    return Maker(_host(), _boot_id(), pid, start)


def tag() -> str:
    """This process as part of a volume's name, for volumes that are made before a domain names
    them: ``m<host>-<boot>-<pid>-<start>``, the first two as hashes."""
    me = this_process()
    return f"m{_short(me.host)}-{_short(me.boot)}-{me.pid}-{me.start}"


def tagged_by_the_dead(volume_name: str) -> bool:
    """Whether a volume's name carries the tag of a process that certainly lives no more."""
    found = _TAG.search(volume_name)
    if found is None or found["host"] != _short(_host()):
        return False
    same_boot = found["boot"] == _short(_boot_id())
    return not same_boot or start_time(int(found["pid"])) != int(found["start"])


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def is_dead(maker: Maker) -> bool:
    """True only when it is certain: another machine's processes cannot be judged from here."""
    if maker.host != _host():
        return False
    return maker.boot != _boot_id() or start_time(maker.pid) != maker.start


def _host() -> str:
    # A PID means something within one PID namespace only (containers), and the first namespace has
    # the same number everywhere: two machines that share a libvirt host may share a name as well.
    return f"{socket.gethostname()} {_machine_id()} {(_PROC / 'self/ns/pid').readlink()}"


def _machine_id() -> str:
    """machine-id(5); where there is none, another boot counts as another machine."""
    with contextlib.suppress(FileNotFoundError):
        if found := MACHINE_ID.read_text().strip():
            return found
    return _boot_id()


def _boot_id() -> str:
    # Start times count from boot.
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (clock ticks since boot), None if no such process runs.

    The fields are counted behind the last ')': the name in field 2 may hold anything.
    """
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    state, start = fields[0], int(fields[19])
    return None if state == "Z" else start
