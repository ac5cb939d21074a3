"""Seal and unseal by themselves, and ``openssl speed`` with as many processes as threads: MiB/s.

Natively this is a module of the benchmark. In a guest it is the workload: whoever connects to the
port gets the three as a line of JSON.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sevfork.process import run
from sevfork.seal import NO_BASE, BlockDevice, SealedImage, SealReader, SealWriter
from sevfork.seal.device import ChunkDevice
from sevfork.seal.pipeline import default_workers

MIB = 2**20
_RUNS = 3
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


def speeds(directory: str, mib: int) -> dict[str, float]:
    """What was done, and its rate; ``mib`` are sealed each time, in a file of that directory."""
    piece = secrets.token_bytes(MIB)
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        file.truncate((mib + 8) * MIB)
        with BlockDevice(Path(file.name), writable=True) as medium:
            taken_s = {
                "seal without a medium": _fastest_s(lambda: _seal(Nowhere(), piece, mib)),
                "seal onto tmpfs": _fastest_s(lambda: _seal(medium, piece, mib)),
            }
            image = _seal(medium, piece, mib)
            taken_s["unseal from tmpfs"] = _fastest_s(lambda: _unseal(medium, image))
    return {what: mib / each_s for what, each_s in taken_s.items()}


def openssl_mib_s(processes: int) -> float:
    """AES-256-GCM of 1 MiB blocks."""
    argv = ["openssl", "speed", "-evp", "aes-256-gcm", "-bytes", str(MIB)]
    argv += ["-seconds", str(_SECONDS), "-multi", str(processes)]
    return parse_openssl(run(argv, timeout_s=120).stdout)


def parse_openssl(text: str) -> float:
    """MiB/s from the last line, which has thousands of bytes. Raises ValueError."""
    found = re.search(r"(?mi)^AES-256-GCM\s+([0-9.]+)k\s*$", text)
    if found is None:
        raise ValueError("openssl speed printed nothing to go by")
    return float(found[1]) * 1000 / MIB


def report(directory: str, mib: int) -> dict[str, object]:
    """The rates, openssl's, and how many threads it was."""
    threads = default_workers()
    ours = speeds(directory, mib)
    return {"threads": threads, "sevfork": ours, "openssl": openssl_mib_s(threads)}


def serve(port: int, directory: str, mib: int) -> None:
    """Answer whoever connects, one after another. One that asks nothing gets nothing: a port that
    is tried is not a question."""
    with socket.create_server(("", port)) as server:
        while True:
            connection, _ = server.accept()
            with connection:
                if connection.recv(1):
                    connection.sendall(json.dumps(report(directory, mib)).encode() + b"\n")


def _seal(medium: ChunkDevice, piece: bytes, mib: int) -> SealedImage:
    with SealWriter(medium, image_key=_KEY, vm_id=os.urandom(16), generation=1) as writer:
        for _ in range(mib):
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


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
