"""A warm child, and each step with it as an honest host relays it."""

from __future__ import annotations

from typing import Any

from sevfork.handshake import (
    Confirmed,
    HoldState,
    Layer,
    Manifest,
    NeedEvidence,
    ParentSession,
    ReleaseState,
    Send,
    Slot,
)
from tests.support.fake_family import MANIFEST, Family, Fork, Guest, only

PLACE = Slot(b"f" * 16, 3, 1)


def layer_after(manifest: Manifest, mark: bytes = b"1") -> Layer:
    """A layer that could come next; ``mark`` tells it apart."""
    return Layer(
        image_key=mark * 32,
        header_digest=mark * 48,
        chunk_count=2,
        image_id=mark * 16,
        start=manifest.layers[-1].end,
    )


def extended(manifest: Manifest, mark: bytes = b"1") -> Manifest:
    return Manifest((*manifest.layers, layer_after(manifest, mark)))


UPDATED = extended(MANIFEST, b"1")
CURRENT = extended(UPDATED, b"2")


class WarmFork(Fork):
    """A parent session that keeps a child warm, and that child."""

    def __init__(
        self, family: Family, parent: ParentSession, guest: Guest, root: Guest | None = None
    ) -> None:
        super().__init__(family, root or family.root, parent, guest)

    @classmethod
    def of(cls, family: Family, **how: Any) -> WarmFork:
        parent = family.parent(warm=True)
        return cls(family, parent, family.child_of(parent.offer, **how))

    @classmethod
    def holding(cls, family: Family, **how: Any) -> WarmFork:
        """A child that has confirmed that it holds."""
        fork = cls.of(family, **how)
        fork.hold()
        fork.confirm()
        return fork

    def hold(self) -> HoldState:
        return only(self.child.receive_grant(self.grant()), HoldState)

    def update(self, manifest: Manifest = UPDATED, now: float = 2.0) -> HoldState:
        return only(self.child.receive_update(self.parent.update(manifest, now)), HoldState)

    def call(self, slot: Slot = PLACE, manifest: Manifest = CURRENT, now: float = 3.0) -> bytes:
        return self.parent.call(slot, manifest, now)

    def answer(self, call: bytes | None = None) -> bytes:
        (action,) = self.child.receive_call(call or self.call())
        if isinstance(action, NeedEvidence):
            evidence = self.guest.evidence(action.report_data)
            (action,) = self.child.provide_evidence(evidence)
        return only([action], Send).message

    def activate(self, answer: bytes | None = None, now: float = 4.0) -> bytes:
        return only(self.parent.receive_answer(answer or self.answer(), now), Send).message

    def release(self) -> ReleaseState:
        """The state of a child that is activated."""
        return only(self.child.receive_activate(self.activate()), ReleaseState)

    def activated(self) -> Confirmed:
        self.release()
        return self.confirm()
