"""One chunk of a sealed image: 1 MiB on the medium, sealed and opened on its own.

Plaintext, 1 MiB - 16 bytes: data, zeros up to 1 MiB - 24, u64 count of data bytes. Every chunk has
the count, and only the last may hold less than 1 MiB - 24 bytes: were it in the last chunk alone, a
remainder of 1 MiB - 23 to 1 MiB - 17 bytes would be too long for a last chunk and too short for
another (docs/sealed-image.md).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import GCM

from sevfork.errors import NotAuthentic
from sevfork.seal.header import HEADER_SIZE

CHUNK_SIZE = 1 << 20
TAG_SIZE = 16
COUNT_SIZE = 8
PLAINTEXT_SIZE = CHUNK_SIZE - TAG_SIZE
DATA_SIZE = PLAINTEXT_SIZE - COUNT_SIZE
MAX_CHUNKS = 1 << 24

_ZEROS = bytes(PLAINTEXT_SIZE)
# Less is cheaper to copy than to encrypt by itself; and a chunk holds on to 16 pieces at most.
_HELD_SIZE = 1 << 16


def chunk_offset(index: int) -> int:
    """Where a chunk starts on the medium; that of the chunk count is the image's size in bytes."""
    return HEADER_SIZE + index * CHUNK_SIZE


def chunk_count_for(size_bytes: int) -> int:
    """How many chunks that much data takes; there always is a last one."""
    return max(1, -(-size_bytes // DATA_SIZE))


def image_size_for(size_bytes: int) -> int:
    """How many bytes of medium the sealed image of that much data takes."""
    return chunk_offset(chunk_count_for(size_bytes))


def chunk_nonce(index: int, *, final: bool) -> bytes:
    """The STREAM construction: 11-byte chunk index || final flag."""
    return index.to_bytes(11, "big") + bytes([final])


def private_buffer(size_bytes: int) -> memoryview:
    """Zeroed page-aligned memory of this process alone, as O_DIRECT wants it."""
    return memoryview(mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class Chunk:
    """The two buffers of a chunk in flight; they are made once and used for many chunks.

    Large pieces of a writer's data that cannot change any more (``bytes``) are held and not copied:
    a copy costs most of what their encryption does, and holds the interpreter's lock meanwhile.
    Their places in ``plaintext`` stay unused.
    """

    def __init__(self) -> None:
        self.plaintext = memoryview(bytearray(PLAINTEXT_SIZE))
        self.sealed = private_buffer(CHUNK_SIZE)
        self.size = 0
        self._held: dict[int, memoryview] = {}

    def clear(self) -> None:
        """No data; the buffers keep what they have until it is overwritten."""
        self.size = 0
        self._held.clear()

    def fill(self, source: memoryview) -> int:
        """Take data from the front of source, as much as there is room for; how much it was."""
        taken = min(len(source), DATA_SIZE - self.size)
        if taken >= _HELD_SIZE and isinstance(source.obj, bytes):
            self._held[self.size] = source[:taken]
        else:
            self.plaintext[self.size : self.size + taken] = source[:taken]
        self.size += taken
        return taken

    def seal(self, cipher: AES256, index: int, *, final: bool) -> None:
        """The data into ``sealed``. Called once per index: the nonce is the index."""
        self.plaintext[self.size : DATA_SIZE] = _ZEROS[self.size : DATA_SIZE]
        self.plaintext[DATA_SIZE:] = self.size.to_bytes(COUNT_SIZE, "big")
        encryptor = Cipher(cipher, GCM(chunk_nonce(index, final=final))).encryptor()
        done = 0
        for piece in self._pieces():
            done += encryptor.update_into(piece, self.sealed[done:])
        encryptor.finalize()
        self.sealed[done:] = encryptor.tag
        self.clear()

    def _pieces(self) -> Iterator[memoryview]:
        """The whole plaintext, in order."""
        position = 0
        for start, piece in self._held.items():
            yield self.plaintext[position:start]
            yield piece
            position = start + len(piece)
        yield self.plaintext[position:]

    def open(self, cipher: AESGCM, index: int, *, final: bool) -> None:
        """From ``sealed`` into ``plaintext`` and ``size``; raise NotAuthentic if it was changed."""
        try:
            cipher.decrypt_into(chunk_nonce(index, final=final), self.sealed, None, self.plaintext)
        except InvalidTag as exc:
            raise NotAuthentic(f"sealed image: chunk {index} is not authentic") from exc
        self.size = int.from_bytes(self.plaintext[DATA_SIZE:], "big")
        if self.size > DATA_SIZE or (not final and self.size != DATA_SIZE):
            raise NotAuthentic(f"sealed image: chunk {index} has a wrong count of data bytes")
        # Not as views, which are compared item by item.
        if bytes(self.plaintext[self.size : DATA_SIZE]) != _ZEROS[self.size : DATA_SIZE]:
            raise NotAuthentic(f"sealed image: the padding of chunk {index} is not zero")
