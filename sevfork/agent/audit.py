"""This VM's audit record: kept in RAM from the agent's start on, and signed for whoever reads it.

It is the guest's word, and as good as its launch. A new agent, a child's too, begins a new one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from msgspec import Struct, field
from msgspec.structs import replace

from sevfork.errors import SevforkError
from sevfork.handshake import Actions, InstanceKey, Manifest, Send, manifest_digest
from sevfork.handshake.audit import MAX_KEPT, Head, Span
from sevfork.handshake.audit_entries import (
    ChainKind,
    Deed,
    Entry,
    RequestRefused,
    StateCaptured,
    kind_of,
)
from sevfork.wire import protocol
from sevfork.wire.lp import lp


class _Chain(Struct):
    span: Span
    kept: deque[bytes] = field(default_factory=deque)

    def append(self, entry: bytes) -> None:
        self.kept.append(entry)
        self.span = replace(self.span, last=self.span.last.after(entry))
        if len(self.kept) > MAX_KEPT:
            condensed = self.span.condensed.after(self.kept.popleft())
            self.span = replace(self.span, condensed=condensed)


class AuditLog:
    """Appends; nothing that was appended is changed. ``wall_ns`` is nanoseconds since 1970."""

    def __init__(self, key: InstanceKey, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._key, self._wall_ns = key, wall_ns
        self._chains = {kind: _Chain(Span.empty(key.public, kind)) for kind in ChainKind}

    def append(self, deed: Deed) -> None:
        number = 1 + sum(chain.span.last.count for chain in self._chains.values())
        chain = self._chains[kind_of(deed)]
        entry = Entry(number, chain.span.last.count + 1, self._wall_ns(), deed)
        chain.append(entry.encode())

    def note(self, actions: Actions) -> None:
        """What the messages give that a handshake is about to send."""
        for action in actions:
            if isinstance(action, Send) and action.gives:
                self.append(action.gives)

    def captured(self, fork_id: bytes, manifest: Manifest, state_bytes: int) -> None:
        self.append(StateCaptured(fork_id, manifest_digest(manifest.encode()), state_bytes))

    def refused(self, request: protocol.Request, error: SevforkError) -> None:
        name = type(request).__name__
        self.append(RequestRefused(error.exit_code, name, error.message))

    def read(self, nonce: bytes) -> protocol.Audited:
        spans = {kind: chain.span for kind, chain in self._chains.items()}
        head = Head(self._key.public, nonce, self._wall_ns(), spans).signed(self._key)
        kept = (entry for chain in self._chains.values() for entry in chain.kept)
        return protocol.Audited(head.encode(), lp(*kept))
