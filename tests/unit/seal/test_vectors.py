"""The format, written down once more from its specification, against the code and fixed values.

``tests/vectors/sealed-image.json`` is for other implementations too: each vector's image is made
from the listed inputs alone, and has the listed digests.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sevfork.seal import SealReader, SealWriter
from tests.support.memory_device import MemoryDevice

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "sealed-image.json").read_text())[
    "vectors"
]
DATA_SIZE = 1048552


def expand(prk: bytes, info: bytes) -> bytes:
    return hmac.digest(prk, info + b"\x01", "sha384")[:32]


def data_of(vector: dict[str, Any]) -> bytes:
    """The pattern repeated, and cut at the size."""
    size: int = vector["data_size"]
    pattern = bytes.fromhex(vector["data_pattern"])
    return (pattern * (size // len(pattern) + 1))[:size]


def header_of(vector: dict[str, Any], prk: bytes) -> bytes:
    """By the table of offsets in docs/sealed-image.md."""
    header = bytearray(4096)
    header[0:8] = b"SEVFORK\x00"
    header[8:12] = b"\x00\x01\x00\x01"
    header[16:32] = bytes.fromhex(vector["image_id"])
    header[32:48] = bytes.fromhex(vector["vm_id"])
    header[48:56] = vector["generation"].to_bytes(8, "big")
    header[56:104] = bytes.fromhex(vector["base_digest"])
    header[104:136] = bytes.fromhex(vector["salt"])
    header[136:168] = expand(prk, b"sevfork/1 commit")
    return bytes(header)


def image_of(vector: dict[str, Any]) -> bytes:
    data = data_of(vector)
    prk = hmac.digest(bytes.fromhex(vector["salt"]), bytes.fromhex(vector["image_key"]), "sha384")
    header = header_of(vector, prk)
    cipher = AESGCM(expand(prk, b"sevfork/1 chunk" + hashlib.sha384(header).digest()))
    parts = [data[start : start + DATA_SIZE] for start in range(0, len(data), DATA_SIZE)] or [b""]
    image = header
    for index, part in enumerate(parts):
        nonce = index.to_bytes(11, "big") + bytes([index == len(parts) - 1])
        plaintext = part.ljust(DATA_SIZE, b"\0") + len(part).to_bytes(8, "big")
        image += cipher.encrypt(nonce, plaintext, None)
    return image


named = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])


@named
def test_specification_gives_the_vectors_image(vector: dict[str, Any]) -> None:
    image = image_of(vector)
    assert hashlib.sha384(image[:4096]).hexdigest() == vector["header_digest"]
    assert hashlib.sha384(image).hexdigest() == vector["image_sha384"]
    assert (len(image) - 4096) >> 20 == vector["chunk_count"]


@named
def test_reader_opens_the_vectors_image(vector: dict[str, Any]) -> None:
    device = MemoryDevice(0)
    device.data += image_of(vector)
    reader = SealReader(
        device,
        image_key=bytes.fromhex(vector["image_key"]),
        header_digest=bytes.fromhex(vector["header_digest"]),
        chunk_count=vector["chunk_count"],
        base_digest=bytes.fromhex(vector["base_digest"]),
    )
    assert reader.read() == data_of(vector)


@named
def test_writer_makes_the_vectors_image(
    vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the random salt and id of the vector, which is the only place where they are chosen."""

    chosen = {32: bytes.fromhex(vector["salt"]), 16: bytes.fromhex(vector["image_id"])}
    monkeypatch.setattr(secrets, "token_bytes", chosen.__getitem__)
    device = MemoryDevice(len(image_of(vector)))
    writer = SealWriter(
        device,
        image_key=bytes.fromhex(vector["image_key"]),
        vm_id=bytes.fromhex(vector["vm_id"]),
        generation=vector["generation"],
        base_digest=bytes.fromhex(vector["base_digest"]),
    )
    writer.write(data_of(vector))
    image = writer.finish()
    assert hashlib.sha384(device.data).hexdigest() == vector["image_sha384"]
    assert image.header_digest.hex() == vector["header_digest"]
