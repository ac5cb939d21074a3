"""A private libvirtd whose storage pool lies on a tmpfs: it can be filled, and made read-only.

Mounted before libvirtd starts: what is mounted later does not reach its mount namespace everywhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from sevfork.host import private_libvirtd
from sevfork.host.hypervisor import Hypervisor

_PIECE = 2**20


@dataclass(frozen=True)
class SmallPool:
    """``environ`` is what commands need to find it."""

    layout: private_libvirtd.Layout
    environ: dict[str, str]

    @contextmanager
    def hypervisor(self) -> Iterator[Hypervisor]:
        # Only here: unit tests load all of this directory where libvirt-python is absent.
        from sevfork.host.libvirt.hypervisor import connect

        private_libvirtd.ensure_running(self.layout, lambda _text: None)
        with connect(self.layout.uri, pool_path=str(self.layout.pool)) as connected:
            yield connected

    @contextmanager
    def filled(self, leaving_bytes: int = 0) -> Iterator[None]:
        """Somebody else's file takes all the room but that much, until the end of the block."""
        ballast = self.layout.pool / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):  # ENOSPC: it is full
            while room := max(self._free_bytes() - leaving_bytes, 0):
                file.write(bytes(min(room, _PIECE)))
        assert self._free_bytes() <= leaving_bytes
        try:
            yield
        finally:
            ballast.unlink()

    def _free_bytes(self) -> int:
        found = os.statvfs(self.layout.pool)
        return found.f_bfree * found.f_frsize

    def remount(self, options: str) -> None:
        _run("mount", "-o", f"remount,{options}", str(self.layout.pool))


@contextmanager
def small_pool(options: str) -> Iterator[SmallPool]:
    """``options`` are tmpfs's (``size=``, ``nr_inodes=``). No guest may be left at the end."""
    folder = tempfile.mkdtemp(prefix="sfp-", dir="/tmp")
    environ = {**os.environ, "SEVFORK_STATE_DIR": folder}
    made = SmallPool(private_libvirtd.Layout.of(environ), environ)
    made.layout.pool.mkdir(mode=0o700)
    _run("mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "tmpfs", str(made.layout.pool))
    try:
        yield made
    finally:
        private_libvirtd.stop(made.layout)
        _run("umount", str(made.layout.pool))
        shutil.rmtree(folder)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)
