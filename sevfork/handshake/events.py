"""Life-cycle events in order, for either direction."""

from __future__ import annotations

from sevfork.errors import NotAuthentic
from sevfork.handshake.actions import EventReceived
from sevfork.handshake.keys import Box
from sevfork.handshake.messages import DETAIL_LIMIT_BYTES, Event, EventKind

_RETURNCODE_SIZE = 2
_RETURNCODES = range(-64, 256)


def exit_detail(returncode: int | None) -> bytes:
    """The detail of EXITED: i16, an exit status or minus a signal; empty where it is not known."""
    return b"" if returncode is None else returncode.to_bytes(_RETURNCODE_SIZE, "big", signed=True)


def returncode_of(detail: bytes) -> int | None:
    """What ``exit_detail`` encoded; raise NotAuthentic for what no process ends with."""
    if not detail:
        return None
    returncode = int.from_bytes(detail, "big", signed=True)
    if len(detail) != _RETURNCODE_SIZE or returncode not in _RETURNCODES:
        raise NotAuthentic("event: no process ends like that")
    return returncode


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
