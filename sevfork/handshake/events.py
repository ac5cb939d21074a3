"""Life-cycle events in order, for either direction."""

from __future__ import annotations

from sevfork.errors import NotAuthentic
from sevfork.handshake.actions import EventReceived
from sevfork.handshake.keys import Box
from sevfork.handshake.messages import DETAIL_LIMIT_BYTES, Event, EventKind


def seal_event(box: Box, message: type[Event], kind: EventKind, detail: bytes) -> bytes:
    """The next event; a longer detail than 1024 bytes is cut."""
    sequence = box.sequence
    return message(sequence, box.seal(bytes([kind]) + detail[:DETAIL_LIMIT_BYTES])).encode()


def open_event(box: Box, message: type[Event], data: bytes) -> EventReceived:
    """Raise NotAuthentic for a forged event, a repeated one, and one after a gap."""
    event = message.decode(data)
    if event.sequence != box.sequence:
        raise NotAuthentic(f"event: got number {event.sequence}, wanted {box.sequence}")
    plaintext = box.open(event.box)
    try:
        return EventReceived(event.sequence, EventKind(plaintext[0]), plaintext[1:])
    except ValueError as exc:
        raise NotAuthentic(f"event: unknown kind {plaintext[0]}") from exc
