"""Seal and unseal by themselves, beside ``openssl speed`` with as many processes as threads."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.bench.figures import Row
from sevfork.process import run
from sevfork.seal import NO_BASE, BlockDevice, SealedImage, SealReader, SealWriter
from sevfork.seal.device import ChunkDevice
from sevfork.seal.pipeline import default_workers

_MIB = 2**20
_SIZE = 256 * _MIB
_RUNS = 3
_TMPFS = "/dev/shm"  # noqa: S108  # with a random name
_SECONDS = 2
_KEY = bytes(32)


class Nowhere:
    """A medium that takes everything and keeps nothing; ``ChunkDevice``."""

    size_bytes = 1 << 40

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raise NotImplementedError

    def write_from(self, offset: int, buffer: memoryview) -> None:
        """Gone."""

    def flush(self) -> None:
        """Gone."""


def rows() -> Iterator[Row]:
    """As times, so that openssl's rate is 1 / 0.8 of sevfork's at most."""
    threads = default_workers()
    reference = openssl_mib_s(threads)
    piece = secrets.token_bytes(_MIB)
    with tempfile.NamedTemporaryFile(dir=_TMPFS) as file:
        file.truncate(_SIZE + 8 * _MIB)
        with BlockDevice(Path(file.name), writable=True) as medium:
            taken = {
                "seal natively, without a medium": _fastest_s(lambda: _seal(Nowhere(), piece)),
                "seal natively, onto tmpfs": _fastest_s(lambda: _seal(medium, piece)),
            }
            image = _seal(medium, piece)
            taken["unseal natively, from tmpfs"] = _fastest_s(lambda: _unseal(medium, image))
    for what, taken_s in taken.items():
        rate = _SIZE / _MIB / taken_s
        yield Row(
            part="e",
            what=f"{what}, {threads} threads: 100 MiB",
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


def _seal(medium: ChunkDevice, piece: bytes) -> SealedImage:
    with SealWriter(medium, image_key=_KEY, vm_id=os.urandom(16), generation=1) as writer:
        for _ in range(_SIZE // len(piece)):
            writer.write(piece)
        return writer.finish()


def _unseal(medium: ChunkDevice, image: SealedImage) -> None:
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
