"""The header of a sealed image, and the keys that it binds (docs/sealed-image.md).

4096 bytes, big-endian: magic (8) | u16 version | u16 suite | 4 zero | image id (16) | VM id (16) |
u64 generation | header digest of the base (48, zero for a base) | salt (32) | key commitment (32) |
zero to the end.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct

from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from msgspec import Struct

from sevfork.errors import NotAuthentic

HEADER_SIZE = 4096
MAGIC = b"SEVFORK\x00"
VERSION = 1
SUITE_AES_256_GCM_SHA_384 = 1
KEY_SIZE = 32
DIGEST_SIZE = 48
ID_SIZE = 16
NO_BASE = bytes(DIGEST_SIZE)

_COMMIT_LABEL = b"sevfork/1 commit"
_CHUNK_LABEL = b"sevfork/1 chunk"
_LAYOUT = struct.Struct(">8sHH4x16s16sQ48s32s32s")


class Header(Struct, frozen=True):
    """Who captured what, and the commitment to the key that opens it."""

    image_id: bytes
    vm_id: bytes
    generation: int
    base_digest: bytes
    salt: bytes
    commitment: bytes

    @classmethod
    def fresh(
        cls, *, image_key: bytes, vm_id: bytes, generation: int, base_digest: bytes
    ) -> Header:
        """A header with a new image id and salt, so that no two images ever share a chunk key."""
        if len(vm_id) != ID_SIZE or len(base_digest) != DIGEST_SIZE:
            raise ValueError("a VM id is 16 bytes and a base digest 48")
        salt = secrets.token_bytes(32)
        commitment = _expand(_extract(image_key, salt), _COMMIT_LABEL)
        image_id = secrets.token_bytes(ID_SIZE)
        return cls(image_id, vm_id, generation, base_digest, salt, commitment)

    def encode(self) -> bytes:
        fields = (self.image_id, self.vm_id, self.generation, self.base_digest)
        head = _LAYOUT.pack(
            MAGIC, VERSION, SUITE_AES_256_GCM_SHA_384, *fields, self.salt, self.commitment
        )
        return head.ljust(HEADER_SIZE, b"\0")

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Raise NotAuthentic unless data is exactly one header of version 1."""
        if len(data) != HEADER_SIZE or data[:8] != MAGIC:
            raise NotAuthentic("sealed image: this is not the header of a sealed image")
        _, version, suite, *fields = _LAYOUT.unpack_from(data)
        if (version, suite) != (VERSION, SUITE_AES_256_GCM_SHA_384):
            raise NotAuthentic(f"sealed image: unknown version {version} or suite {suite}")
        header = cls(*fields)
        if header.encode() != data:
            raise NotAuthentic("sealed image: reserved bytes of the header are not zero")
        return header

    def chunk_key(self, image_key: bytes) -> bytes:
        """The AES-256 key of the chunks; raise NotAuthentic if the key is not the committed one.

        The commitment is checked first because AES-GCM alone is not key-committing.
        """
        prk = _extract(image_key, self.salt)
        if not hmac.compare_digest(_expand(prk, _COMMIT_LABEL), self.commitment):
            raise NotAuthentic("sealed image: the image key is not the one that sealed it")
        return _expand(prk, _CHUNK_LABEL + header_digest(self.encode()))


def header_digest(header: bytes) -> bytes:
    """SHA-384 of the header's 4096 bytes: what a manifest and a delta name an image by."""
    return hashlib.sha384(header).digest()


def _extract(image_key: bytes, salt: bytes) -> bytes:
    if len(image_key) != KEY_SIZE:
        raise ValueError("an image key is 32 bytes")
    return HKDF.extract(SHA384(), salt, image_key)


def _expand(prk: bytes, info: bytes) -> bytes:
    return HKDFExpand(SHA384(), KEY_SIZE, info).derive(prk)
