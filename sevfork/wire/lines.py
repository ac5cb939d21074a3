"""How frames travel over a channel: one frame is one line of base64.

A frame is u8 version = 1 | u8 kind | 8-byte id | payload. A newline never occurs inside base64, so
whoever reads finds the next frame again after any garbage, also after a peer that disappeared in
the middle of a line: the QEMU guest agent's way of resynchronising, without its sentinel byte.
Nothing here authenticates anything: the channel belongs to the host.
"""

from __future__ import annotations

import base64
import binascii

from msgspec import Struct

VERSION = 1
ID_SIZE = 8
HEADER_SIZE = 2 + ID_SIZE
# A JOIN or GRANT with evidence and a full certificate table stays under 96 KiB; twice that is room.
MAX_FRAME_SIZE = 192 * 1024
MAX_LINE_SIZE = 4 * ((MAX_FRAME_SIZE + 2) // 3)


class Kind:
    """Frame kinds. 0x80 and above are the simulated secure processor's and are defined with it."""

    REQUEST = 1
    REPLY = 2
    PROGRESS = 3
    FAILURE = 4


class Frame(Struct, frozen=True):
    """One message; replies, progress and failures carry the id of their request."""

    kind: int
    request_id: bytes
    payload: bytes

    def encode_line(self) -> bytes:
        """The frame as one line, with newlines around it: the first ends whatever was cut short."""
        body = bytes([VERSION, self.kind]) + self.request_id + self.payload
        if len(self.request_id) != ID_SIZE or len(body) > MAX_FRAME_SIZE:
            raise ValueError("frame: an id of 8 bytes and at most 192 KiB")
        return b"\n" + base64.b64encode(body) + b"\n"


def decode_line(line: bytes) -> Frame | None:
    """The frame in a line without its newline, or None for garbage."""
    try:
        body = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(body) < HEADER_SIZE or body[0] != VERSION:
        return None
    return Frame(body[1], body[2:HEADER_SIZE], body[HEADER_SIZE:])


class LineDecoder:
    """Bytes in, frames out. Garbage is dropped and counted; memory is bounded by one line."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._overlong = False
        self.dropped = 0

    def reset(self) -> None:
        """Forget an unfinished line: the peer that sent it is gone."""
        self._pending.clear()
        self._overlong = False

    @property
    def kept_bytes(self) -> int:
        """What an unfinished line holds of memory."""
        return len(self._pending)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that data completes, in order."""
        frames = []
        for piece in _split(data):
            if not piece.endswith(b"\n"):
                self._keep(piece)
                continue
            frame = self._finish(piece[:-1])
            if frame is not None:
                frames.append(frame)
        return frames

    def _keep(self, piece: bytes) -> None:
        if self._overlong or len(self._pending) + len(piece) > MAX_LINE_SIZE:
            self._overlong = True
            self._pending.clear()
        else:
            self._pending += piece

    def _finish(self, piece: bytes) -> Frame | None:
        self._keep(piece)
        line, overlong = bytes(self._pending), self._overlong
        self.reset()
        if not line and not overlong:
            return None
        frame = None if overlong else decode_line(line)
        self.dropped += frame is None
        return frame


def _split(data: bytes) -> list[bytes]:
    lines = data.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
