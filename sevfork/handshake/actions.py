"""What a session asks its caller to do. Sessions do nothing themselves."""

from __future__ import annotations

from msgspec import Struct

from sevfork.handshake.audit_entries import Given
from sevfork.handshake.lineage import Lineage
from sevfork.handshake.manifest import Manifest
from sevfork.handshake.messages import EventKind
from sevfork.unshown import Unshown


class NeedEvidence(Struct, frozen=True):
    """Have the hardware sign these 64 bytes, and hand the evidence to ``provide_evidence``."""

    report_data: bytes


class Send(Struct, frozen=True):
    """Relay this message to the other side.

    ``gives`` is what it gives to whom, for the audit record; None where it is sent again.
    """

    message: bytes
    gives: Given | None = None


class ReleaseState(Unshown, Struct, frozen=True):
    """For the child: restore what the manifest names, base first, as this generation."""

    manifest: Manifest
    lineage: Lineage
    generation: int


class HoldState(Unshown, Struct, frozen=True):
    """For a warm child: unseal what the manifest names, base first, keep it, and run none of it."""

    manifest: Manifest


class Confirmed(Struct, frozen=True):
    """For the parent: the child with this instance key has restored the state, or holds it."""

    instance_key: bytes


class EventReceived(Struct, frozen=True):
    """The other side says, authentically, that this happened to it."""

    sequence: int
    kind: EventKind
    detail: bytes


Action = NeedEvidence | Send | ReleaseState | HoldState | Confirmed | EventReceived
Actions = tuple[Action, ...]
