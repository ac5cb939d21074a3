"""A container image's layers as one tree, by ``umoci``, and what is taken out of it afterwards.

umoci resolves every path of a layer inside the tree, applies whiteouts, and keeps owners, modes,
hard links and attributes. ``--keep-dirlinks`` is not given: a directory in a layer takes the place
of a link below, as it does in Docker and podman.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sevfork.agent.container import tree
from sevfork.errors import RefusedByGuest, UsageError
from sevfork.image.guest_root import GuestRoot
from sevfork.image.oci.fetch import LARGEST_FILE, TAG
from sevfork.process import CommandFailed, run

_TIMEOUT_S = 1800.0
_MOST_FILES = 1_000_000
# What the guest's kernel and the programs in the container may look at. ``trusted.overlay.*`` would
# be taken for the overlay's own.
_KEPT = ("security.capability", "user.")
# The agent, or runc, writes in them, so they must lie where they seem to.
_OURS = ("etc", "run")
_MADE_ANEW = ("dev", "proc", "sys")
_NAME_SERVER = b"nameserver 10.0.2.3\n"


def unpack(layout: Path, root: GuestRoot) -> None:
    """Make the tree at ``root``, which does not exist. Takes root's rights.

    Raise UsageError for an image that cannot be used.
    """
    limit = ["prlimit", f"--fsize={LARGEST_FILE}"]
    words = ["umoci", "raw", "unpack", "--image", f"{layout}:{TAG}", f"{root.directory}"]
    try:
        run([*limit, *words], timeout_s=_TIMEOUT_S)
    except CommandFailed as exc:
        raise UsageError(f"container image: cannot be unpacked: {exc.message}") from exc
    try:
        tame(root.directory)
    except RefusedByGuest as exc:
        raise UsageError(f"container image: {exc.message}", hint=exc.hint) from exc
    settle(root)


def tame(directory: Path) -> None:
    """Take out device nodes and foreign attributes; raise UsageError for more than fits."""
    size_bytes = 0
    for count, node in enumerate(tree.walk(directory)):
        mode = node.status.st_mode
        size_bytes += node.status.st_size if stat.S_ISREG(mode) else 0
        if count > _MOST_FILES or size_bytes > LARGEST_FILE:
            raise UsageError(
                f"container image: more than {_MOST_FILES} files, or {LARGEST_FILE >> 20} MiB, "
                f"at '/{node.path}'; holes in a file count"
            )
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            os.unlink(node.name, dir_fd=node.directory)
            continue
        for name in node.attributes():
            if not name.startswith(_KEPT):
                os.removexattr(node.real_path, name, follow_symlinks=False)


def settle(root: GuestRoot) -> None:
    """What every container finds, whatever its image has: mount points, names, a name server."""
    for name in _OURS:
        _require_plain(root, name)
    for name in (*_MADE_ANEW, "run/sevfork"):
        root.remove(name)
        root.make_directory(name)
    for name in ("dev/shm", "tmp"):
        if not root.exists(name):
            root.make_directory(name)
            root.real(name).chmod(0o1777)
    root.write("etc/machine-id", b"")
    root.write("etc/hostname", b"sevfork\n")
    root.write("etc/hosts", b"127.0.0.1 localhost\n")
    root.write("etc/resolv.conf", _NAME_SERVER)


def _require_plain(root: GuestRoot, name: str) -> None:
    """Make it if it is missing. Raise UsageError when it is a link, or no directory."""
    here = root.directory / name
    if here.is_symlink() or (here.exists() and not here.is_dir()):
        raise UsageError(f"container image: '/{name}' is no directory, and has to be one")
    if not here.exists():
        root.make_directory(name)
