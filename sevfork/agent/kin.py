"""One child as its parent's agent knows it: its session, its place, and what was heard of it."""

from __future__ import annotations

import hashlib

from msgspec import Struct

from sevfork.agent.chronicle import Told
from sevfork.agent.engine import UNIQUE_ID_SIZE
from sevfork.errors import NotAuthentic, RefusedByGuest
from sevfork.handshake import Confirmed, EventKind, EventReceived, ParentSession, returncode_of
from sevfork.wire import protocol
from sevfork.wire.protocol import MAX_EVENTS, LifeEvent

_EVENTS = {
    EventKind.RESTORED: LifeEvent.RESTORED,
    EventKind.HOOKS_PASSED: LifeEvent.READY,
    EventKind.FAILED: LifeEvent.FAILED,
    EventKind.EXITED: LifeEvent.EXITED,
    EventKind.SHUTTING_DOWN: LifeEvent.ENDING,
}


class Kin(Struct):
    """``fork_id`` and ``index`` are the OFFER's until a warm child is called to another place.

    Whatever the host says of whom an event is: it is told as that of the child whose key opens it.
    ``unique_id`` is what the child has in its generation file; empty until it runs.
    """

    session: ParentSession
    fork_id: bytes
    index: int
    confirmed: bool = False
    unique_id: bytes = b""
    heard: int = 0
    over: bool = False
    is_lost: bool = False

    def confirm(self, message: bytes) -> None:
        """Raises as the session does. A warm child confirms that it holds first, and runs later."""
        for action in self.session.receive_confirm(message):
            if isinstance(action, Confirmed) and not self.session.holds:
                instance_id = hashlib.sha384(action.instance_key).digest()
                self.unique_id = instance_id[:UNIQUE_ID_SIZE]
        self.confirmed = True

    def hear(self, message: bytes) -> Told:
        """The child's next EVENT. Raises NotAuthentic for any other, RefusedByGuest."""
        if self.heard >= MAX_EVENTS:
            raise RefusedByGuest(f"a child has at most {MAX_EVENTS} events")
        (received,) = self.session.receive_event(message)
        if not isinstance(received, EventReceived):
            raise TypeError(f"not an event: {type(received).__name__}")
        self.heard = received.sequence + 1
        event = _EVENTS.get(received.kind)
        if event is None:
            raise NotAuthentic("event: this is not a child's to say")
        returncode = returncode_of(received.detail) if event is LifeEvent.EXITED else None
        over = event in (LifeEvent.EXITED, LifeEvent.ENDING)
        self.is_lost, self.over = False, self.over or over
        return Told(self.unique_id, self.fork_id, self.index, event, returncode)

    def lose(self) -> Told | None:
        """The host's word, taken of a child that runs; None where it is told already."""
        if not self.unique_id or self.over or self.is_lost:
            return None
        self.is_lost = True
        return Told(self.unique_id, self.fork_id, self.index, LifeEvent.LOST)

    def known(self) -> protocol.KnownChild:
        return protocol.KnownChild(self.fork_id, self.index, self.heard, self.over)
