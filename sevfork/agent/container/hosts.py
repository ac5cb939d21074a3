"""The container's ``/etc/hosts``: the guest's own host name, which is another one in each child."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from sevfork.agent.container.tree import parent_of, write_file

_PATH = "etc/hosts"
_LARGEST = 1 << 16
_GUEST_NAME = re.compile(rb"\bsevfork-[0-9a-f]{8}\b")  # as the agent names its guest
_LOOPBACK_6 = b"::1 localhost ip6-localhost ip6-loopback\n"


def name_host(root: Path, host_name: str) -> None:
    """Let ``host_name`` resolve in the container whose root is given.

    What the workload file or the workload itself wrote there stays. A child's name takes the place
    of its parent's, so that the file keeps its size, which CRIU checks of files that were open.
    """
    before = _read(root)
    after = naming(host_name.encode(), before)
    if before != after:
        write_file(root, _PATH, after)


def naming(host_name: bytes, hosts: bytes) -> bytes:
    """The file's content with this host's name in it."""
    renamed, count = _GUEST_NAME.subn(host_name, hosts)
    if count:
        return renamed
    missing = b"" if b"::1" in hosts else _LOOPBACK_6
    return hosts.rstrip(b"\n") + b"\n127.0.1.1 " + host_name + b"\n" + missing


def _read(root: Path) -> bytes:
    """Never through a link, and never a file that has no end: then a new one takes its place."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with parent_of(root, _PATH) as (directory, name):
        try:
            descriptor = os.open(name, flags, dir_fd=directory)
        except OSError:
            return b"127.0.0.1 localhost\n"
    with os.fdopen(descriptor, "rb") as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file.read(_LARGEST)
    return b"127.0.0.1 localhost\n"
