"""Seal and unseal by themselves, beside ``openssl speed`` with as many processes as threads."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator

from scripts.bench.figures import Row
from sevfork.process import run
from sevfork.seal import NO_BASE, SealedImage, SealReader, SealWriter
from sevfork.seal.pipeline import default_workers

_MIB = 2**20
_SIZE = 256 * _MIB
_RUNS = 3
_SECONDS = 2
_KEY = bytes(32)


class Memory:
    """A medium that costs nothing; ``ChunkDevice``."""

    def __init__(self, size_bytes: int) -> None:
        self._bytes = memoryview(bytearray(size_bytes))

    @property
    def size_bytes(self) -> int:
        return len(self._bytes)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._bytes[offset : offset + len(buffer)]

    def write_from(self, offset: int, buffer: memoryview) -> None:
        self._bytes[offset : offset + len(buffer)] = buffer

    def flush(self) -> None:
        """It is there already."""


def rows() -> Iterator[Row]:
    """The openssl's rate over sevfork's: at most 1 / 0.8 is asked for."""
    threads = default_workers()
    reference = openssl_mib_s(threads)
    medium, piece = Memory(_SIZE + 8 * _MIB), secrets.token_bytes(_MIB)
    sealed: list[SealedImage] = []
    seal = _fastest_s(lambda: sealed.append(_seal(medium, piece)))
    unseal = _fastest_s(lambda: _unseal(medium, sealed[-1]))
    for what, taken_s in (("seal", seal), ("unseal", unseal)):
        rate = _SIZE / _MIB / taken_s
        yield Row(
            part="e",
            what=f"{what} natively, {threads} threads, in memory: ms for 100 MiB",
            value=100 / rate * 1000,
            unit="ms",
            peer=f"openssl speed -multi {threads}",
            peer_value=100 / reference * 1000,
            most=1.25,
            note=f"{rate:.0f} and {reference:.0f} MiB/s",
        )


def openssl_mib_s(processes: int) -> float:
    """AES-256-GCM of 1 MiB blocks."""
    argv = ["openssl", "speed", "-evp", "aes-256-gcm", "-bytes", str(_MIB)]
    argv += ["-seconds", str(_SECONDS), "-multi", str(processes)]
    return parse_openssl(run(argv, timeout_s=60).stdout)


def parse_openssl(text: str) -> float:
    """MiB/s from the last line, which has thousands of bytes. Raises ValueError."""
    found = re.search(r"(?mi)^AES-256-GCM\s+([0-9.]+)k\s*$", text)
    if found is None:
        raise ValueError("openssl speed printed nothing to go by")
    return float(found[1]) * 1000 / _MIB


def _seal(medium: Memory, piece: bytes) -> SealedImage:
    with SealWriter(medium, image_key=_KEY, vm_id=os.urandom(16), generation=1) as writer:
        for _ in range(_SIZE // len(piece)):
            writer.write(piece)
        return writer.finish()


def _unseal(medium: Memory, image: SealedImage) -> None:
    digest, count = image.header_digest, image.chunk_count
    with SealReader(
        medium, image_key=_KEY, header_digest=digest, chunk_count=count, base_digest=NO_BASE
    ) as reader:
        reader.drain()


def _fastest_s(action: Callable[[], object]) -> float:
    taken = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return min(taken)
