"""A medium in memory which counts what is done to it, and can be told to fail."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from sevfork.errors import NotAuthentic
from sevfork.seal import SealedImage, SealReader, SealWriter, image_size_for

KEY = bytes(range(32))
VM_ID = b"v" * 16


class MemoryDevice:
    """A ChunkDevice of a fixed size."""

    def __init__(self, size_bytes: int) -> None:
        self.data = bytearray(size_bytes)
        self.reads: list[int] = []
        self.writes: list[tuple[int, bytes]] = []
        self.flushes = 0
        self.fail_writes: dict[int, int] = {}  # offset -> how many attempts fail from now on
        self.fail_flush = False
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self._lock:
            self.reads.append(offset)
        part = self.data[offset : offset + len(buffer)]
        if len(part) < len(buffer):
            raise NotAuthentic("cut short")
        buffer[:] = part

    def write_from(self, offset: int, buffer: memoryview) -> None:
        with self._lock:
            self.writes.append((offset, bytes(buffer)))
            left = self.fail_writes.get(offset, 0)
            self.fail_writes[offset] = left - 1
        if left > 0:
            raise OSError(5, "Input/output error")
        self.data[offset : offset + len(buffer)] = buffer

    def flush(self) -> None:
        if self.fail_flush:
            raise OSError(5, "Input/output error")
        self.flushes += 1


@dataclass
class Sealed:
    """A device with an image on it, and what a manifest would say of that."""

    device: MemoryDevice
    image: SealedImage
    data: bytes
    key: bytes = KEY

    def reader(self, **changes: object) -> SealReader:
        arguments = {
            "device": self.device,
            "image_key": self.key,
            "header_digest": self.image.header_digest,
            "chunk_count": self.image.chunk_count,
            **changes,
        }
        return SealReader(**arguments)  # type: ignore[arg-type]


def seal(data: bytes, *, key: bytes = KEY, spare: int = 0, **header: object) -> Sealed:
    """Seal data onto a device that has ``spare`` bytes more than the image needs."""
    device = MemoryDevice(image_size_for(len(data)) + spare)
    arguments = {"vm_id": VM_ID, "generation": 1, **header}
    with SealWriter(device, image_key=key, **arguments) as writer:  # type: ignore[arg-type]
        writer.write(data)
        image = writer.finish()
    return Sealed(device, image, data, key)
