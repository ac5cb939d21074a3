"""What an audit record says: one entry for each thing that was done or refused (docs/audit.md).

Each entry is one link of a chain; there is a chain for each kind of thing, so that many of one kind
displace none of another.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

from msgspec import Struct

from sevfork.handshake.codec import Cursor, MessageKind, head
from sevfork.handshake.launch import DIGEST_SIZE
from sevfork.handshake.lineage import Lineage
from sevfork.handshake.messages import FORK_ID_SIZE, INSTANCE_KEY_SIZE

MAX_REQUEST_BYTES = 32
MAX_REASON_BYTES = 384
ENTRY_LIMIT_BYTES = 512


class ChainKind(IntEnum):
    """The third byte of an entry."""

    PLACE = 1
    CAPTURE = 2
    REFUSAL = 3
    GRANT = 4
    ACTIVATION = 5


class PlaceTaken(Struct, frozen=True):
    """Where the VM stands: as a root, again once its owner has adopted it, or as a child.

    ``owned``: its lineage has the owner's word on its root. ``lineage_digest`` is SHA-384 of its
    encoded lineage; a root's fork id and index are zero.
    """

    owned: bool
    generation: int
    fork_id: bytes
    child_index: int
    lineage_digest: bytes

    @classmethod
    def of(cls, lineage: Lineage) -> PlaceTaken:
        last = lineage.certificates[-1] if lineage.certificates else None
        fork_id, index = (last.fork_id, last.child_index) if last else (bytes(FORK_ID_SIZE), 0)
        owned, digest = lineage.owner_certificate is not None, lineage_digest(lineage.encode())
        return cls(owned, lineage.generation, fork_id, index, digest)

    def encode(self) -> bytes:
        place = self.fork_id + self.child_index.to_bytes(4, "big")
        generation = self.generation.to_bytes(8, "big")
        return bytes([self.owned]) + generation + place + self.lineage_digest

    @classmethod
    def take(cls, cursor: Cursor) -> PlaceTaken:
        owned, generation, fork_id = _flag(cursor), _count(cursor), cursor.take(FORK_ID_SIZE)
        return cls(owned, generation, fork_id, cursor.number(4), cursor.take(DIGEST_SIZE))


class StateCaptured(Struct, frozen=True):
    """The workload's state was sealed: for a fork's children, or as a snapshot (fork id zero)."""

    fork_id: bytes
    manifest_digest: bytes
    state_bytes: int

    def encode(self) -> bytes:
        return self.fork_id + self.manifest_digest + self.state_bytes.to_bytes(8, "big")

    @classmethod
    def take(cls, cursor: Cursor) -> StateCaptured:
        return cls(cursor.take(FORK_ID_SIZE), cursor.take(DIGEST_SIZE), _count(cursor))


class RequestRefused(Struct, frozen=True):
    """A request that was answered by an error: the check that failed, in the error's words."""

    exit_code: int
    request: str
    reason: str

    def encode(self) -> bytes:
        request = _cut(self.request, MAX_REQUEST_BYTES)
        reason = _cut(self.reason, MAX_REASON_BYTES)
        return bytes([self.exit_code, len(request)]) + request + reason

    @classmethod
    def take(cls, cursor: Cursor) -> RequestRefused:
        exit_code, size = cursor.number(1), cursor.number(1)
        request, reason = cursor.take(size), cursor.rest()
        if size > MAX_REQUEST_BYTES or len(reason) > MAX_REASON_BYTES:
            raise cursor.error("a text is too long")
        try:
            return cls(exit_code, request.decode(), reason.decode())
        except UnicodeDecodeError as exc:
            raise cursor.error("a text is not UTF-8") from exc


class Recipient(Struct, frozen=True):
    """A place in a fork, the instance key of the VM that has it, and the manifest it was given."""

    fork_id: bytes
    child_index: int
    instance_key: bytes
    manifest_digest: bytes

    def encode(self) -> bytes:
        place = self.fork_id + self.child_index.to_bytes(4, "big")
        return place + self.instance_key + self.manifest_digest

    @classmethod
    def take(cls, cursor: Cursor) -> Recipient:
        fork_id, index = cursor.take(FORK_ID_SIZE), cursor.number(4)
        return cls(fork_id, index, cursor.take(INSTANCE_KEY_SIZE), cursor.take(DIGEST_SIZE))


class KeysGranted(Struct, frozen=True):
    """A GRANT was made. A ``warm`` one makes no child yet: that VM holds, and gets the UPDATEs."""

    recipient: Recipient
    warm: bool

    def encode(self) -> bytes:
        return bytes([self.warm]) + self.recipient.encode()

    @classmethod
    def take(cls, cursor: Cursor) -> KeysGranted:
        warm = _flag(cursor)
        return cls(Recipient.take(cursor), warm)


class ChildActivated(Struct, frozen=True):
    """An ACTIVATE was made: a VM that was held warm has become the child at this place."""

    recipient: Recipient

    def encode(self) -> bytes:
        return self.recipient.encode()

    @classmethod
    def take(cls, cursor: Cursor) -> ChildActivated:
        return cls(Recipient.take(cursor))


Deed = PlaceTaken | StateCaptured | RequestRefused | KeysGranted | ChildActivated
Given = KeysGranted | ChildActivated
_KINDS: dict[type[Deed], ChainKind] = {
    PlaceTaken: ChainKind.PLACE,
    StateCaptured: ChainKind.CAPTURE,
    RequestRefused: ChainKind.REFUSAL,
    KeysGranted: ChainKind.GRANT,
    ChildActivated: ChainKind.ACTIVATION,
}
_DEEDS: dict[int, type[Deed]] = {kind.value: deed for deed, kind in _KINDS.items()}


class Entry(Struct, frozen=True):
    """``number`` counts all entries of the record, ``position`` those of its chain, both from 1.

    ``wall_ns`` is nanoseconds since 1970 by the guest's clock, which its host sets.
    """

    number: int
    position: int
    wall_ns: int
    deed: Deed

    @property
    def kind(self) -> ChainKind:
        return kind_of(self.deed)

    def encode(self) -> bytes:
        numbers = (self.number, self.position, self.wall_ns)
        counted = b"".join(number.to_bytes(8, "big") for number in numbers)
        return head(MessageKind.AUDIT_ENTRY, self.kind) + counted + self.deed.encode()

    @classmethod
    def decode(cls, data: bytes) -> Entry:
        """Raise NotAuthentic unless data is exactly one entry."""
        cursor = Cursor(MessageKind.AUDIT_ENTRY, data)
        deed = _DEEDS.get(cursor.number(1))
        if deed is None:
            raise cursor.error("unknown kind")
        cursor.zeros(1)
        number, position, wall_ns = _count(cursor), _count(cursor), cursor.number(8)
        entry = cls(number, position, wall_ns, deed.take(cursor))
        cursor.end()
        return entry


def kind_of(deed: Deed) -> ChainKind:
    return _KINDS[type(deed)]


def lineage_digest(encoded: bytes) -> bytes:
    """What a PLACE entry names a lineage by: SHA-384."""
    return hashlib.sha384(encoded).digest()


def _flag(cursor: Cursor) -> bool:
    flag = cursor.number(1)
    if flag > 1:
        raise cursor.error("reserved bits are set")
    return bool(flag)


def _count(cursor: Cursor) -> int:
    """8 bytes; below 2^53, as every number that a guest gives for a document."""
    number = cursor.number(8)
    if number >= 2**53:
        raise cursor.error("a number is too large")
    return number


def _cut(text: str, limit_bytes: int) -> bytes:
    """UTF-8 of so many bytes at most, ending with a whole character."""
    encoded = text.encode("utf-8", "backslashreplace")[:limit_bytes]
    return encoded.decode("utf-8", "ignore").encode()
