"""The library that lets random generators notice a fork (``firmware/fork-id.c``), compiled.

By the small compiler of the guest's own suite, locked like every package, and not by the host's: so
the same recipe gives the same bytes, and the same launch digest, on every machine.
"""

from __future__ import annotations

from sevfork.image.guest_root import GuestRoot
from sevfork.process import run

SOURCE_NAME = "fork-id.c"
LIBRARY = "usr/lib/sevfork/fork-id.so"
_PRELOAD = "etc/ld.so.preload"


def install(root: GuestRoot, source: str) -> None:
    """Compile into the tree and have its loader preload the library everywhere."""
    root.write(SOURCE_NAME, source.encode())
    root.make_directory(LIBRARY.rpartition("/")[0])
    command = ["/usr/bin/tcc", "-shared", "-nostdlib", "-o", f"/{LIBRARY}", f"/{SOURCE_NAME}"]
    run(["chroot", root.directory, *command], timeout_s=60)
    root.remove(SOURCE_NAME)
    root.real(LIBRARY).chmod(0o755)
    root.write(_PRELOAD, f"/{LIBRARY}\n".encode())
