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
_LOADER = "lib64/ld-linux-x86-64.so.2"
_GLIBC = ("lib/x86_64-linux-gnu/libc.so.6", "usr/lib64/libc.so.6", "usr/lib/libc.so.6")
_VERSION = b"\0GLIBC_2.34\0"


def install(root: GuestRoot, source: str) -> None:
    """Compile into the tree and have its loader preload the library everywhere."""
    root.write(SOURCE_NAME, source.encode())
    root.make_directory(LIBRARY.rpartition("/")[0])
    command = ["/usr/bin/tcc", "-shared", "-nostdlib", "-o", f"/{LIBRARY}", f"/{SOURCE_NAME}"]
    run(["chroot", root.directory, *command], timeout_s=60)
    root.remove(SOURCE_NAME)
    root.real(LIBRARY).chmod(0o755)
    root.write(_PRELOAD, f"/{LIBRARY}\n".encode())


def share(guest: GuestRoot, container: GuestRoot) -> bool:
    """Give a container image the library as well. False where its programs cannot have it.

    It needs glibc, and one that has ``dlsym`` and its kind in ``libc.so.6`` itself (2.34): without
    them a program that calls what is preloaded would end. musl reads no ``ld.so.preload``.
    """
    if not _fits(container):
        return False
    others = container.real(_PRELOAD).read_bytes() if container.exists(_PRELOAD) else b""
    container.make_directory(LIBRARY.rpartition("/")[0])
    container.write(LIBRARY, guest.real(LIBRARY).read_bytes(), 0o755)
    container.write(_PRELOAD, f"/{LIBRARY}\n".encode() + others)
    return True


def _fits(container: GuestRoot) -> bool:
    if not container.exists(_LOADER):
        return False
    libraries = [container.real(path) for path in _GLIBC if container.exists(path)]
    return any(path.is_file() and _VERSION in path.read_bytes() for path in libraries[:1])
