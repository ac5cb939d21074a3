"""The manifest: which sealed images, opened by which keys, make up the state. It is a secret."""

from __future__ import annotations

import hashlib

from msgspec import Struct

from sevfork.errors import NotAuthentic
from sevfork.handshake.codec import Cursor, MessageKind, head
from sevfork.seal import MAX_CHUNKS, chunk_offset
from sevfork.seal.header import DIGEST_SIZE, ID_SIZE, KEY_SIZE
from sevfork.seal.window import ALIGNMENT
from sevfork.unshown import Unshown

MAX_LAYERS = 64
# In an OFFER that was made before the capture.
TO_COME = bytes(DIGEST_SIZE)
_LAYER_SIZE = KEY_SIZE + DIGEST_SIZE + 4 + ID_SIZE + 8
MANIFEST_LIMIT_BYTES = 4 + MAX_LAYERS * _LAYER_SIZE
_END_LIMIT = 1 << 63  # where offsets end that a kernel takes


class Layer(Unshown, Struct, frozen=True, kw_only=True):
    """One sealed image, from byte ``start`` of its volume on. Its base is the layer before it."""

    image_key: bytes
    header_digest: bytes
    chunk_count: int
    image_id: bytes
    start: int

    def __post_init__(self) -> None:
        sizes = (len(self.image_key), len(self.header_digest), len(self.image_id))
        if sizes != (KEY_SIZE, DIGEST_SIZE, ID_SIZE) or not 1 <= self.chunk_count <= MAX_CHUNKS:
            raise NotAuthentic("manifest: a layer with a field of the wrong size")
        if self.start < 0 or self.start % ALIGNMENT or self.end >= _END_LIMIT:
            raise NotAuthentic("manifest: a layer that starts where none can lie")

    @property
    def end(self) -> int:
        """The byte of the volume behind this layer: the next one starts there."""
        return self.start + chunk_offset(self.chunk_count)

    def encode(self) -> bytes:
        count = self.chunk_count.to_bytes(4, "big")
        start = self.start.to_bytes(8, "big")
        return self.image_key + self.header_digest + count + self.image_id + start


class Manifest(Struct, frozen=True):
    """The layers in order, the base first."""

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= MAX_LAYERS:
            raise NotAuthentic(f"manifest: {len(self.layers)} layers, limit {MAX_LAYERS}")

    def encode(self) -> bytes:
        first = head(MessageKind.MANIFEST, 0, len(self.layers))
        return first + b"".join(layer.encode() for layer in self.layers)

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        cursor = Cursor(MessageKind.MANIFEST, data)
        cursor.zeros(1)
        layers = tuple(_layer(cursor) for _ in range(cursor.number(1)))
        cursor.end()
        return cls(layers)

    def beyond(self, held: Manifest) -> tuple[Layer, ...] | None:
        """What comes after all of ``held``, maybe nothing; None if this is no extension of it.

        Whoever gets None holds another chain, and begins with this one's base.
        """
        count = len(held.layers)
        return self.layers[count:] if self.layers[:count] == held.layers else None


def manifest_digest(manifest: bytes) -> bytes:
    """SHA-384 of the encoded manifest; it tells nothing, because every image key is random."""
    return hashlib.sha384(manifest).digest()


def _layer(cursor: Cursor) -> Layer:
    return Layer(
        image_key=cursor.take(KEY_SIZE),
        header_digest=cursor.take(DIGEST_SIZE),
        chunk_count=cursor.number(4),
        image_id=cursor.take(ID_SIZE),
        start=cursor.number(8),
    )
