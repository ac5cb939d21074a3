"""Unsealing: ciphertext from the medium, verified plaintext out, in order."""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sevfork.closing import Closing
from sevfork.errors import NotAuthentic, WrongState
from sevfork.seal.chunk import MAX_CHUNKS, Chunk, chunk_offset, private_buffer
from sevfork.seal.device import ChunkDevice, volume_failed
from sevfork.seal.header import HEADER_SIZE, NO_BASE, Header, header_digest
from sevfork.seal.pipeline import Pipeline, default_workers


class SealReader(Closing):
    """A readable stream of one image's data.

    Each chunk is read exactly once, into memory of this process, since the host can change the
    medium between two reads; nothing of a chunk is released before its tag has verified. Whoever
    acts on the data for good does so after ``read`` has returned ``b""`` or ``drain`` has returned:
    only then have the last chunk and the count verified.
    """

    def __init__(
        self,
        device: ChunkDevice,
        *,
        image_key: bytes,
        header_digest: bytes,
        chunk_count: int,
        base_digest: bytes = NO_BASE,
        workers: int | None = None,
    ) -> None:
        """The key, digests and count come from an authentic manifest, never from the host.

        Raises NotAuthentic if the header is not the one named, the image has another base, the
        key is not its key, or the device is too short for the count.
        """
        _require_length(device, chunk_count)
        self.header = _read_header(device, header_digest)
        if not hmac.compare_digest(self.header.base_digest, base_digest):
            raise NotAuthentic("sealed image: it is a delta on another base")
        self._cipher: AESGCM | None = AESGCM(self.header.chunk_key(image_key))
        self._device, self._chunk_count = device, chunk_count
        self._submitted = self._verified = self._position = 0
        self._pipeline = Pipeline(workers or default_workers())
        self._chunk = self._pipeline.chunk()

    @property
    def complete(self) -> bool:
        """Whether every chunk, the last one and the count have verified."""
        return self._verified == self._chunk_count

    def read(self, size: int = -1) -> bytes:
        """size bytes, or fewer where the image ends (all of them if negative); b"" at the end.

        Raises NotAuthentic if a chunk was changed, HostCannot if the medium cannot be read.
        """
        parts = []
        while size and self._advance():
            part = bytes(self._take(size))
            size -= len(part) if size > 0 else 0
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill the buffer as far as the image goes, without another copy; how far that was."""
        target = memoryview(buffer).cast("B")
        done = 0
        while done < len(target) and self._advance():
            part = self._take(len(target) - done)
            target[done : done + len(part)] = part
            done += len(part)
        return done

    def drain(self) -> int:
        """Verify what has not been read, and return how many bytes of data that was."""
        skipped = 0
        while self._advance():
            skipped += len(self._take(-1))
        return skipped

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._cipher = None
        self._pipeline.close()

    def _advance(self) -> bool:
        """Make the current chunk one that has data left; False at the verified end."""
        cipher = self._require_open()
        try:
            while self._position == self._chunk.size:
                if self.complete:
                    return False
                self._next_chunk(cipher)
        except BaseException:
            self.close()
            raise
        return True

    def _next_chunk(self, cipher: AESGCM) -> None:
        self._pipeline.recycle(self._chunk)
        while self._submitted < self._chunk_count and not self._pipeline.full:
            self._read_ahead(cipher)
        self._chunk = self._pipeline.next()
        self._verified += 1
        self._position = 0

    def _read_ahead(self, cipher: AESGCM) -> None:
        device, index = self._device, self._submitted
        final = index == self._chunk_count - 1
        self._submitted += 1

        def job(chunk: Chunk) -> None:
            _read(device, chunk_offset(index), chunk.sealed)
            chunk.open(cipher, index, final=final)

        self._pipeline.submit(job, self._pipeline.chunk())

    def _require_open(self) -> AESGCM:
        if self._cipher is None:
            raise WrongState("sealed image: the reader is closed, or a chunk was not authentic")
        return self._cipher

    def _take(self, size: int) -> memoryview:
        """The next part of the current chunk, valid until the next ``_advance``."""
        left = self._chunk.size - self._position
        start, count = self._position, left if size < 0 else min(left, size)
        self._position += count
        return self._chunk.plaintext[start : start + count]


def _require_length(device: ChunkDevice, chunk_count: int) -> None:
    if not 1 <= chunk_count <= MAX_CHUNKS:
        raise NotAuthentic(f"sealed image: there is no image of {chunk_count} chunks")
    image_size, volume_size = chunk_offset(chunk_count), device.size_bytes
    if volume_size < image_size:
        raise NotAuthentic(
            f"sealed image: the volume is cut short: {volume_size} bytes, wanted {image_size}"
        )


def _read_header(device: ChunkDevice, named_digest: bytes) -> Header:
    """Read once, compare what was read with the digest, and only then look into it."""
    buffer = private_buffer(HEADER_SIZE)
    _read(device, 0, buffer)
    encoded = bytes(buffer)
    if not hmac.compare_digest(header_digest(encoded), named_digest):
        raise NotAuthentic("sealed image: the header is not the one that the manifest names")
    return Header.decode(encoded)


def _read(device: ChunkDevice, offset: int, buffer: memoryview) -> None:
    try:
        device.read_into(offset, buffer)
    except OSError as exc:
        raise volume_failed("read", exc) from exc
