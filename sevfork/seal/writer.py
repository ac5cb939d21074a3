"""Sealing: plaintext in, ciphertext to the medium, each chunk exactly once."""

from __future__ import annotations

import logging

from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from msgspec import Struct

from sevfork.closing import Closing
from sevfork.errors import HostCannot, WrongState
from sevfork.seal.chunk import MAX_CHUNKS, Chunk, chunk_offset, private_buffer
from sevfork.seal.device import ChunkDevice, volume_failed
from sevfork.seal.header import HEADER_SIZE, NO_BASE, Header, header_digest
from sevfork.seal.pipeline import Pipeline, default_workers

log = logging.getLogger(__name__)

WRITE_ATTEMPTS = 3


class SealedImage(Struct, frozen=True):
    """What a manifest says of an image besides its key."""

    header_digest: bytes
    chunk_count: int
    image_id: bytes


class SealWriter(Closing):
    """A write-only stream that ends in ``finish()``; there is no seek and no rewrite.

    The first error aborts the image for good: whoever wants another attempt makes a new writer,
    which has a new salt and id, with a new image key.
    """

    def __init__(
        self,
        device: ChunkDevice,
        *,
        image_key: bytes,
        vm_id: bytes,
        generation: int,
        base_digest: bytes = NO_BASE,
        workers: int | None = None,
    ) -> None:
        """Raise HostCannot if not even an empty image fits on the device."""
        self._device = device
        self._header = Header.fresh(
            image_key=image_key, vm_id=vm_id, generation=generation, base_digest=base_digest
        )
        self._cipher: AES256 | None = AES256(self._header.chunk_key(image_key))
        self._index = 0
        self._require_room()
        self._pipeline = Pipeline(workers or default_workers())
        self._chunk = self._pipeline.chunk()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take all of data; raise HostCannot if the device is full, fails or hangs.

        Large ``bytes`` are not copied but held, for as long as a chunk is in flight.
        """
        rest = memoryview(data).cast("B")
        size = len(rest)
        self._require_open()
        try:
            while rest:
                taken = self._chunk.fill(rest)
                if not taken:
                    self._seal(final=False)
                rest = rest[taken:]
        except BaseException:
            self.close()
            raise
        return size

    def finish(self) -> SealedImage:
        """Seal the last chunk and flush. The header goes last: without it there is no image."""
        self._require_open()
        try:
            self._seal(final=True)
            while self._pipeline:
                self._pipeline.recycle(self._pipeline.next())
            encoded = self._write_header()
            self._flush()
        finally:
            self.close()
        return SealedImage(header_digest(encoded), self._index, self._header.image_id)

    def close(self) -> None:
        """Stop, and let go of the key; what is on the medium is no image. Harmless after finish."""
        self._cipher = None
        self._pipeline.close()

    def _seal(self, *, final: bool) -> None:
        """Hand the filled chunk to a thread under the next index, and get an empty one."""
        self._require_room()
        cipher, index, device = self._require_open(), self._index, self._device
        self._index += 1

        def job(chunk: Chunk) -> None:
            chunk.seal(cipher, index, final=final)
            _write(device, chunk_offset(index), chunk.sealed)

        self._pipeline.submit(job, self._chunk)
        if self._pipeline.full:
            self._pipeline.recycle(self._pipeline.next())
        self._chunk = self._pipeline.chunk()

    def _write_header(self) -> bytes:
        encoded = self._header.encode()
        buffer = private_buffer(HEADER_SIZE)
        buffer[:] = encoded
        _write(self._device, 0, buffer)
        return encoded

    def _flush(self) -> None:
        # Not tried again: after a failed fsync the kernel may have dropped the pages it could not
        # write, and a second one would report success.
        try:
            self._pipeline.flush(self._device.flush)
        except OSError as exc:
            raise volume_failed("flushed", exc) from exc

    def _require_open(self) -> AES256:
        if self._cipher is None:
            raise WrongState("sealed image: it is finished or was aborted")
        return self._cipher

    def _require_room(self) -> None:
        needed, size = chunk_offset(self._index + 1), self._device.size_bytes
        if needed > size or self._index >= MAX_CHUNKS:
            raise HostCannot(
                f"sealed image: the volume is too small: it has {size} bytes, and the capture "
                f"needs more than {chunk_offset(self._index)}",
                hint="attach a larger volume and fork again",
            )


def _write(device: ChunkDevice, offset: int, sealed: memoryview) -> None:
    """Write; after an I/O error write the identical ciphertext again: it is never sealed anew."""
    for attempt in range(1, WRITE_ATTEMPTS + 1):
        try:
            return device.write_from(offset, sealed)
        except OSError as exc:
            log.warning("writing at byte %d failed (attempt %d): %s", offset, attempt, exc)
            error = exc
    raise volume_failed("written", error) from error
