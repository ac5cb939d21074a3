"""What has happened to this VM, told to whoever asks and sealed for its parent.

Everything stays, each event at the place that its number says: so whoever relays it may begin
anywhere and begin again, and an answer to the host that was lost loses nothing.
"""

from __future__ import annotations

import logging
from typing import Protocol

from sevfork.handshake import EventKind, exit_detail
from sevfork.wire import protocol
from sevfork.wire.protocol import LifeEvent

log = logging.getLogger(__name__)

KINDS = {
    LifeEvent.RESTORED: EventKind.RESTORED,
    LifeEvent.READY: EventKind.HOOKS_PASSED,
    LifeEvent.EXITED: EventKind.EXITED,
    LifeEvent.ENDING: EventKind.SHUTTING_DOWN,
}


class Sealer(Protocol):
    """Makes the next EVENT for the parent."""

    def event(self, kind: EventKind, detail: bytes = b"") -> bytes: ...


class Life:
    """One VM's; a root has no ``sealer``, because it has no parent."""

    def __init__(self, sealer: Sealer | None = None) -> None:
        self._sealer = sealer
        self._events: list[protocol.Happened] = []

    @property
    def events(self) -> list[protocol.Happened]:
        """In order; the number of an EVENT is its index here."""
        return list(self._events)

    def has(self, event: LifeEvent) -> bool:
        return any(each.event is event for each in self._events)

    def note(self, event: LifeEvent, returncode: int | None = None) -> bytes:
        """Each event once; the EVENT for the parent, which is empty in a root."""
        detail = exit_detail(returncode) if event is LifeEvent.EXITED else b""
        sealed = self._sealer.event(KINDS[event], detail) if self._sealer else b""
        self._events.append(protocol.Happened(event, returncode, sealed))
        log.info("event: %s", event)
        return sealed
