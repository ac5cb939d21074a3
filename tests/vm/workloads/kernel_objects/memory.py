"""Memory: anonymous, shared, sealed, advised, reserved, locked."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from pathlib import Path

from .registry import Check, held, libc, same

PAGE = mmap.PAGESIZE
PROT_NONE, MAP_NORESERVE = 0, 0x4000


def _flags(address: int) -> set[str]:
    """The kernel's marks of the mapping that begins here (VmFlags of smaps)."""
    found = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0] and not line.startswith(("VmFlags", "Name")):
            found = line.startswith(f"{address:x}-")
        elif found and line.startswith("VmFlags:"):
            return set(line.split()[1:])
    raise AssertionError(f"no mapping begins at {address:x}")


def _address(mapped: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapped))


@held
def memfd_with_seals() -> Check:
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.write(fd, b"content")
    seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)

    def check() -> None:
        same(os.pread(fd, 100, 0), b"content")
        same(fcntl.fcntl(fd, fcntl.F_GET_SEALS), seals)

    return check


@held
def memfd_with_an_owner_and_a_size() -> Check:
    fd = os.memfd_create("owned")
    os.truncate(fd, 5000)
    os.fchmod(fd, 0o640)

    def owned() -> tuple[int, ...]:
        status = os.fstat(fd)
        return status.st_uid, status.st_gid, status.st_mode, status.st_size

    want = owned()
    return lambda: same(owned(), want)


@held
def shared_memory_of_two_processes() -> Check:
    shared = mmap.mmap(-1, PAGE)
    to_child, from_child = os.pipe(), os.pipe()
    if not os.fork():
        while os.read(to_child[0], 1):
            shared[0] += 1
            os.write(from_child[1], b"!")

    def check() -> None:
        before = shared[0]
        os.write(to_child[1], b"?")
        os.read(from_child[0], 1)
        same(shared[0], (before + 1) % 256)

    return check


@held
def advice_on_memory() -> Check:
    mapped = mmap.mmap(-1, 16 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapped.madvise(mmap.MADV_DONTDUMP)
    mapped.madvise(mmap.MADV_DONTFORK)

    def check() -> None:
        flags = _flags(_address(mapped))
        assert {"dd", "dc"} <= flags, f"{flags}"

    return check


@held
def locked_memory() -> Check:
    mapped = mmap.mmap(-1, 4 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    libc("mlock", ctypes.c_void_p(_address(mapped)), ctypes.c_size_t(4 * PAGE))

    def check() -> None:
        flags = _flags(_address(mapped))
        assert "lo" in flags, f"{flags}"

    return check


@held
def reserved_address_space() -> Check:
    """What JVMs, Go and allocators reserve far beyond what the guest has."""
    size = 8 << 30
    reserve = ctypes.CDLL(None).mmap
    reserve.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    address = reserve(None, ctypes.c_size_t(size), PROT_NONE, flags, -1, ctypes.c_long(0))
    libc("mprotect", ctypes.c_void_p(address), ctypes.c_size_t(PAGE), 3)
    ctypes.memmove(address, b"committed", 9)

    def check() -> None:
        same(ctypes.string_at(address, 9), b"committed")
        libc("mprotect", ctypes.c_void_p(address + PAGE), ctypes.c_size_t(PAGE), 3)
        libc("mprotect", ctypes.c_void_p(address + PAGE), ctypes.c_size_t(PAGE), PROT_NONE)

    return check
