"""The sealed image: a capture encrypted for the medium (docs/sealed-image.md)."""

from sevfork.seal.chunk import (
    CHUNK_SIZE,
    DATA_SIZE,
    MAX_CHUNKS,
    chunk_count_for,
    chunk_offset,
    image_size_for,
)
from sevfork.seal.device import BlockDevice, ChunkDevice
from sevfork.seal.header import HEADER_SIZE, NO_BASE, Header
from sevfork.seal.reader import SealReader
from sevfork.seal.window import Window
from sevfork.seal.writer import SealedImage, SealWriter

__all__ = [
    "CHUNK_SIZE",
    "DATA_SIZE",
    "HEADER_SIZE",
    "MAX_CHUNKS",
    "NO_BASE",
    "BlockDevice",
    "ChunkDevice",
    "Header",
    "SealReader",
    "SealWriter",
    "SealedImage",
    "Window",
    "chunk_count_for",
    "chunk_offset",
    "image_size_for",
]
