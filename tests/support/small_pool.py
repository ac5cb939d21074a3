"""A private libvirtd whose storage pool lies on a tmpfs: it can be filled, and made read-only.

Mounted before libvirtd starts: what is mounted later does not reach its mount namespace everywhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sevfork.host import private_libvirtd
from sevfork.host.hypervisor import Hypervisor
from sevfork.host.libvirt.hypervisor import connect


@dataclass(frozen=True)
class SmallPool:
    """``environ`` is what commands need to find it."""

    layout: private_libvirtd.Layout
    environ: dict[str, str]

    @contextmanager
    def hypervisor(self) -> Iterator[Hypervisor]:
        private_libvirtd.ensure_running(self.layout, lambda _text: None)
        with connect(self.layout.uri, pool_path=str(self.layout.pool)) as connected:
            yield connected

    def leave_free(self, size_bytes: int) -> None:
        """Let the file system be as large as what it holds, and that much more."""
        found = os.statvfs(self.layout.pool)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        self.remount(f"size={used + size_bytes}")

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
