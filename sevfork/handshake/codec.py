"""Taking a message apart: exact lengths, nothing trails, and NotAuthentic for everything else."""

from __future__ import annotations

from enum import IntEnum

from sevfork.errors import NotAuthentic
from sevfork.technology import Technology

VERSION = 1
_TECHNOLOGIES = {technology.wire: technology for technology in Technology}


class MessageKind(IntEnum):
    """The second byte of everything that is encoded here, so that nothing passes for another."""

    OFFER = 1
    JOIN = 2
    GRANT = 3
    CONFIRM = 4
    EVENT = 5
    PARENT_EVENT = 6
    MANIFEST = 7
    LINEAGE = 8
    CERTIFICATE = 9
    OWNER_CERTIFICATE = 10
    OWNER_TOKEN = 11
    GRANT_CONTENT = 12
    WARM_GRANT_CONTENT = 13
    UPDATE = 14
    CALL = 15
    ANSWER = 16
    ACTIVATE = 17
    ACTIVATE_CONTENT = 18
    AUDIT_ENTRY = 19
    AUDIT_HEAD = 20
    OWNER_QUESTION = 21
    OWNER_ANSWER = 22


def head(kind: MessageKind, third: int = 0, fourth: int = 0) -> bytes:
    """u8 version | u8 kind | two bytes that are zero where the kind has no use for them."""
    return bytes([VERSION, kind, third, fourth])


def unlp(kind: MessageKind, data: bytes) -> bytes:
    """The x of data that is exactly one LP(x); raise NotAuthentic, naming the kind, otherwise."""
    size, rest = int.from_bytes(data[:4], "big"), data[4:]
    if len(data) < 4 or size != len(rest):
        raise NotAuthentic(f"{kind.name.lower()}: a field of {size} bytes in {len(rest)}")
    return rest


class Cursor:
    """Reads fields from the front of a message."""

    def __init__(self, kind: MessageKind, data: bytes) -> None:
        """Raise NotAuthentic unless data begins with this version and kind."""
        self._what = kind.name.lower().replace("_", " ")
        self._data, self._position = bytes(data), 0
        if self.take(2) != bytes([VERSION, kind]):
            raise self.error("wrong version or kind")

    def take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise self.error("cut short")
        part, self._position = self._data[self._position : end], end
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def zeros(self, size: int) -> None:
        if any(self.take(size)):
            raise self.error("reserved bytes are not zero")

    def technology(self) -> Technology:
        technology = _TECHNOLOGIES.get(self.number(1))
        if technology is None:
            raise self.error("unknown technology")
        return technology

    def lp(self, limit_bytes: int) -> bytes:
        """The x of an LP(x)."""
        size = self.number(4)
        if size > limit_bytes:
            raise self.error(f"a field has {size} bytes, limit {limit_bytes}")
        return self.take(size)

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._position)

    def end(self) -> None:
        """Raise NotAuthentic if anything trails."""
        if self._position != len(self._data):
            raise self.error(f"{len(self._data) - self._position} bytes trail")

    def error(self, reason: str) -> NotAuthentic:
        return NotAuthentic(f"{self._what}: {reason}")
