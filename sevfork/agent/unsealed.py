"""What a child has unsealed of a chain of layers, and what of a newer chain it still lacks."""

from __future__ import annotations

from sevfork.agent.engine import Engine
from sevfork.agent.serve import OnProgress
from sevfork.agent.volume import find_volume
from sevfork.handshake import Layer, Manifest
from sevfork.seal import NO_BASE, BlockDevice, SealReader, Window
from sevfork.wire.protocol import Step

_REPORT_EVERY_BYTES = 4 * 2**20


class Unsealed:
    """Layers in this guest's memory, the base first."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._held: Manifest | None = None
        self.size_bytes = 0

    def take(self, manifest: Manifest, serial: str, progress: OnProgress) -> None:
        """Unseal what is not here yet, from the volume with this serial.

        A chain that does not go on from what is here takes its place. Nothing of it runs before
        every layer has verified to its end: raises NotAuthentic, HostCannot.
        """
        missing = manifest.beyond(self._held) if self._held else manifest.layers
        if missing is None:
            self._engine.discard()
            self._held, self.size_bytes, missing = None, 0, manifest.layers
        if missing:
            with BlockDevice(find_volume(serial)) as device:
                for layer in missing:
                    self._unseal(device, layer, progress)

    def _unseal(self, device: BlockDevice, layer: Layer, progress: OnProgress) -> None:
        held = self._held.layers if self._held else ()
        with SealReader(
            Window(device, layer.start),
            image_key=layer.image_key,
            header_digest=layer.header_digest,
            chunk_count=layer.chunk_count,
            base_digest=held[-1].header_digest if held else NO_BASE,
        ) as reader:
            source = _CountingSource(reader, layer.chunk_count, progress)
            self._engine.unpack(source)
            reader.drain()
        self._held = Manifest((*held, layer))
        self.size_bytes += source.done


class _CountingSource:
    """Reads from the sealed image, and tells the host how far it is."""

    def __init__(self, reader: SealReader, chunk_count: int, progress: OnProgress) -> None:
        self._reader, self._progress = reader, progress
        self._total = chunk_count * 2**20
        self.done = self._told = 0

    def read(self, size: int) -> bytes:
        data = self._reader.read(size)
        self._count(len(data))
        return data

    def readinto(self, buffer: memoryview) -> int:
        size = self._reader.readinto(buffer)
        self._count(size)
        return size

    def _count(self, size: int) -> None:
        self.done += size
        if self.done - self._told >= _REPORT_EVERY_BYTES:
            self._told = self.done
            self._progress(Step.UNSEAL, self.done, self._total)
