"""A child's states while it is kept warm: it holds a chain, is called, and is activated once."""

from __future__ import annotations

import secrets

from msgspec import Struct

from sevfork.attest.verdict import VerifiedReport
from sevfork.errors import NotAuthentic, WrongState
from sevfork.handshake.actions import Actions, HoldState, NeedEvidence, ReleaseState, Send
from sevfork.handshake.codec import MessageKind, unlp
from sevfork.handshake.keys import EcdhKey, LaterBoxes, WarmKeys, derive_active_boxes
from sevfork.handshake.manifest import Manifest
from sevfork.handshake.messages import NONCE_SIZE, Offer
from sevfork.handshake.own_launch import OwnLaunch
from sevfork.handshake.place import Place
from sevfork.handshake.transcript import answer_report_data, transcript_3, transcript_4
from sevfork.handshake.warm_messages import (
    Activate,
    ActivateContent,
    Answer,
    AnswerCore,
    Call,
    Update,
)
from sevfork.unshown import Unshown


class Held(Unshown, Struct, frozen=True, weakref=True):
    """What a warm GRANT leaves behind: who gave it, in which words, and what K is still for."""

    offer: Offer
    parent: VerifiedReport
    report_data: bytes
    t2: bytes
    keys: WarmKeys
    boxes: LaterBoxes

    def called(self, data: bytes) -> Called:
        """Raise NotAuthentic if it is no CALL, WrongState if this child has not confirmed yet."""
        if not self.boxes.confirm.sequence:
            raise WrongState("call: this child has not confirmed that it holds the state")
        call, private = Call.decode(data), EcdhKey()
        ecdh = private.agree(call.share)
        core = AnswerCore(secrets.token_bytes(NONCE_SIZE), private.share).encode()
        t3 = transcript_3(self.t2, data, core)
        return Called(self, data, call, core, t3, ecdh)


class Holding(Struct, frozen=True, weakref=True):
    """The chain of the last manifest is held, or being unsealed."""

    held: Held

    def update(self, data: bytes) -> HoldState:
        """Raise NotAuthentic for an UPDATE that is forged, repeated or after a gap."""
        update, box = Update.decode(data), self.held.keys.update
        if update.sequence != box.sequence:
            raise NotAuthentic(f"update: got number {update.sequence}, wanted {box.sequence}")
        encoded = unlp(MessageKind.UPDATE, box.open(update.box))
        return HoldState(Manifest.decode(encoded))


class Called(Unshown, Struct, frozen=True, weakref=True):
    """A CALL was taken; the child's own evidence is awaited, then the ACTIVATE.

    The private key is gone; ``evidence`` is what the ANSWER was made with, or None until then.
    """

    held: Held
    received: bytes
    call: Call
    core: bytes
    t3: bytes
    ecdh: bytes
    evidence: bytes | None = None

    def again(self) -> Actions:
        if self.evidence is None:
            return (NeedEvidence(answer_report_data(self.t3)),)
        return (Send(Answer(self.core, self.evidence).encode()),)

    def activate(
        self, data: bytes, evidence: bytes, own: OwnLaunch, child: bytes
    ) -> tuple[ReleaseState, LaterBoxes]:
        """What to run, and the boxes of what follows; ``child`` is the own instance key.

        Raises NotAuthentic if the box is not of this CALL and ANSWER, or holds anything else than
        the CALL has promised.
        """
        held, activate = self.held, Activate.decode(data)
        boxes = derive_active_boxes(
            held.parent,
            report_data=held.report_data,
            resume=held.keys.resume,
            ecdh=self.ecdh,
            t4=transcript_4(self.t3, evidence),
        )
        content = ActivateContent.decode(boxes.activate.open(activate.box))
        place = Place.of_call(self.call, held.offer, child)
        return place.release(own, content), boxes.later
