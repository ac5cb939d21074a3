"""CRIU's images: two magic numbers (u32), then messages, each behind its size (u32).

Source: ``criu/image.c`` and ``criu/protobuf.c`` of CRIU 4.2; magic numbers: its ``magic.h``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from sevfork.errors import NotAuthentic

HEAD_SIZE, SIZE = 8, 4
_COMMON_MAGIC = 0x54564319


def messages(image: bytes, magic: int) -> list[bytes]:
    """All of an image. Raise NotAuthentic when it is not as CRIU writes it."""
    if image[:HEAD_SIZE] != struct.pack("<II", _COMMON_MAGIC, magic):
        raise NotAuthentic("one of CRIU's images is of another kind than its name says")
    found, position = [], HEAD_SIZE
    while position < len(image):
        start = position + SIZE
        position = start + int.from_bytes(image[position:start], "little")
        if position > len(image):
            raise NotAuthentic("one of CRIU's images is cut short")
        found.append(image[start:position])
    return found


def write(path: Path, magic: int, content: Iterable[bytes]) -> None:
    framed = (len(message).to_bytes(SIZE, "little") + message for message in content)
    path.write_bytes(struct.pack("<II", _COMMON_MAGIC, magic) + b"".join(framed))
