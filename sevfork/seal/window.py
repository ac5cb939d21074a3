"""A part of a medium, used as if it were one of its own: a layer in the volume of a chain."""

from __future__ import annotations

from sevfork.seal.device import ChunkDevice

ALIGNMENT = 4096


class Window:
    """A ChunkDevice that begins at another's byte ``start``, and ends where that one ends.

    It has no end of its own: a reader never reads behind its last chunk, and layers are written in
    order, each behind the one before it. It does not close the device.
    """

    def __init__(self, device: ChunkDevice, start: int) -> None:
        """Raise ValueError for a start that is negative or no multiple of 4096.

        A start behind the device's end makes an empty window, in which neither a reader nor a
        writer finds room.
        """
        if start < 0 or start % ALIGNMENT:
            raise ValueError(f"a window starts at a multiple of {ALIGNMENT}, not at byte {start}")
        self._device, self._start = device, start

    @property
    def size_bytes(self) -> int:
        return max(0, self._device.size_bytes - self._start)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._device.read_into(self._start + offset, buffer)

    def write_from(self, offset: int, buffer: memoryview) -> None:
        self._device.write_from(self._start + offset, buffer)

    def flush(self) -> None:
        self._device.flush()
