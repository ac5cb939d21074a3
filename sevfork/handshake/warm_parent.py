"""A parent's states for a child that is kept warm: it holds, is called, and is activated once.

As in ``parent.py``, a state holds what may still be used in it, so that leaving it erases the rest.
"""

from __future__ import annotations

import secrets

from msgspec import Struct

from sevfork.attest.verdict import VerifiedReport
from sevfork.errors import AttestationFailed
from sevfork.handshake.actions import Actions, Send
from sevfork.handshake.audit_entries import Recipient
from sevfork.handshake.keys import ActiveBoxes, EcdhKey, LaterBoxes, WarmKeys, derive_active_boxes
from sevfork.handshake.manifest import Manifest, manifest_digest
from sevfork.handshake.messages import NONCE_SIZE, JoinCore
from sevfork.handshake.own_launch import OwnLaunch, Verifier
from sevfork.handshake.slot import Slot
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
from sevfork.wire.lp import lp


class WarmChild(Unshown, Struct, frozen=True, weakref=True):
    """A child that has a warm GRANT: who it was in its JOIN, and what K has left behind."""

    report: VerifiedReport
    core: JoinCore
    t2: bytes
    keys: WarmKeys
    boxes: LaterBoxes

    def update(self, manifest: Manifest) -> bytes:
        """The next UPDATE."""
        box = self.keys.update
        return Update(box.sequence, box.seal(lp(manifest.encode()))).encode()

    def require_same(self, report: VerifiedReport) -> None:
        """Raise AttestationFailed if a new report is another instance's or another chip's.

        Where a technology has no report ids both are None, and who answers is told by K alone.
        """
        if report.report_id != self.report.report_id or report.chip_id != self.report.chip_id:
            raise AttestationFailed("answer: the evidence is not that of the VM that has joined")


class Holding(Struct, frozen=True, weakref=True):
    """The child has confirmed that it holds. Once it was called it takes no UPDATE any more."""

    child: WarmChild
    was_called: bool = False


class Called(Unshown, Struct, frozen=True, weakref=True):
    """A CALL is out: a place in a fork, and the private key that its ANSWER agrees with."""

    child: WarmChild
    slot: Slot
    manifest: bytes
    keys: EcdhKey
    call: bytes

    @classmethod
    def make(cls, child: WarmChild, slot: Slot, manifest: Manifest) -> Called:
        keys, encoded = EcdhKey(), manifest.encode()
        call = Call(
            nonce=secrets.token_bytes(NONCE_SIZE),
            share=keys.share,
            fork_id=slot.fork_id,
            child_index=slot.child_index,
            generation=slot.generation,
            manifest_digest=manifest_digest(encoded),
        )
        return cls(child, slot, encoded, keys, call.encode())

    @property
    def recipient(self) -> Recipient:
        """Who is called to which place with what, as the audit record has it."""
        return self.slot.recipient(self.child.core.instance_key, self.manifest)

    def agree(self, data: bytes, own: OwnLaunch, verifier: Verifier) -> ActiveBoxes:
        """K3, with a child whose new evidence speaks for this CALL and this ANSWER.

        Raises NotAuthentic or AttestationFailed; the CALL then stays good for the true ANSWER.
        """
        answer = Answer.decode(data)
        core = AnswerCore.decode(answer.core)
        t3 = transcript_3(self.child.t2, self.call, answer.core)
        report_data = answer_report_data(t3)
        expected = own.expect(report_data, self.child.core.launch_config)
        report = verifier(answer.evidence, expected)
        self.child.require_same(report)
        return derive_active_boxes(
            report,
            report_data=report_data,
            resume=self.child.keys.resume,
            ecdh=self.keys.agree(core.share),
            t4=transcript_4(t3, answer.evidence),
        )

    def activated(self, data: bytes, boxes: ActiveBoxes, lineage: bytes) -> Activated:
        """Spent on this ANSWER: the one ACTIVATE, and nothing left of K or of the private key."""
        content = ActivateContent(self.manifest, lineage).encode()
        activate = Activate(boxes.activate.seal(content)).encode()
        return Activated(data, activate, self.child.core.instance_key, boxes.later)


class Activated(Unshown, Struct, frozen=True, weakref=True):
    """The ACTIVATE is made. It can be sent again byte for byte, never made again or opened."""

    received: bytes
    activate: bytes
    child_key: bytes
    boxes: LaterBoxes

    def again(self) -> Actions:
        return (Send(self.activate),)
