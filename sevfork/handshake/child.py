"""The child's side: bytes in, actions out, no I/O and no clock."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field, replace

from sevfork.errors import NotAuthentic, RefusedByGuest, WrongState
from sevfork.handshake.actions import Actions, NeedEvidence, ReleaseState, Send
from sevfork.handshake.events import open_event, seal_event
from sevfork.handshake.instance import InstanceKey
from sevfork.handshake.keys import Boxes, JoinKeys, LaterBoxes, SharedSecrets, derive_boxes
from sevfork.handshake.launch import LaunchConfig, Role
from sevfork.handshake.lineage import Lineage
from sevfork.handshake.manifest import Manifest, manifest_digest
from sevfork.handshake.messages import (
    NONCE_SIZE,
    Confirm,
    Event,
    EventKind,
    Grant,
    GrantContent,
    Join,
    JoinCore,
    Offer,
    ParentEvent,
)
from sevfork.handshake.own_launch import OwnLaunch, Verifier
from sevfork.handshake.transcript import (
    child_report_data,
    parent_report_data,
    transcript_1,
    transcript_2,
)


@dataclass(frozen=True)
class _Waiting:
    """Nothing came yet."""


@dataclass(frozen=True)
class _Joining:
    """The OFFER is accepted; the child's own evidence is awaited, then the GRANT.

    ``evidence`` is what the JOIN was made with, or None until then.
    """

    offer: Offer
    core: bytes
    t1: bytes
    secrets: SharedSecrets = field(repr=False)
    evidence: bytes | None = field(default=None, repr=False)

    def again(self) -> Actions:
        if self.evidence is None:
            return (NeedEvidence(child_report_data(self.t1)),)
        return (Send(Join(self.core, self.evidence).encode()),)


@dataclass(frozen=True)
class _GrantTaken:
    """The one GRANT was used, and its key is gone."""

    boxes: LaterBoxes = field(repr=False)


class ChildSession:
    """Joins the one OFFER that this VM was launched for, and uses one GRANT."""

    def __init__(self, own: OwnLaunch, instance: InstanceKey, verifier: Verifier) -> None:
        """Raise RefusedByGuest if this VM was not launched as a child."""
        if own.config.role is not Role.CHILD:
            raise RefusedByGuest("this VM was launched as a root, and a root takes no OFFER")
        self._own, self._instance, self._verifier = own, instance, verifier
        self._state: _Waiting | _Joining | _GrantTaken = _Waiting()

    def receive_offer(self, data: bytes) -> Actions:
        """NeedEvidence, and after that the same JOIN again.

        Raises NotAuthentic if it is not the OFFER that the hardware has signed the hash of, or is
        malformed; RefusedByGuest if it is of another family or policy, or the GRANT is used.
        """
        if not hmac.compare_digest(hashlib.sha384(data).digest(), self._offer_digest()):
            raise NotAuthentic("offer: this VM was launched for another one")
        if isinstance(self._state, _GrantTaken):
            raise RefusedByGuest("offer: this child has used its GRANT")
        if isinstance(self._state, _Waiting):
            self._state = self._join(data)
        return self._state.again()

    def provide_evidence(self, evidence: bytes) -> Actions:
        """The JOIN, from the child's evidence for the report data that was asked for."""
        state = self._state
        if not isinstance(state, _Joining) or state.evidence is not None:
            raise WrongState("join: no evidence was asked for")
        self._state = replace(state, evidence=evidence)
        return self._state.again()

    def receive_grant(self, data: bytes) -> Actions:
        """ReleaseState, once.

        Raises NotAuthentic or AttestationFailed if the GRANT is not for this very JOIN, and
        WrongState before the JOIN and after the GRANT.
        """
        state = self._state
        if not isinstance(state, _Joining) or state.evidence is None:
            raise WrongState("grant: this child is not waiting for one")
        grant = Grant.decode(data)
        boxes = self._verify_parent(state, state.evidence, grant.evidence)
        content = GrantContent.decode(boxes.grant.open(grant.box))
        released = self._release(state.offer, content)
        self._state = _GrantTaken(boxes.later)
        return (released,)

    def confirm(self) -> bytes:
        """The CONFIRM, once, when the state is restored; whoever relays it may repeat the bytes."""
        box = self._boxes().confirm
        if box.sequence:
            raise WrongState("confirm: it was made already")
        return Confirm(box.seal(b"")).encode()

    def event(self, kind: EventKind, detail: bytes = b"") -> bytes:
        """The next event for the parent."""
        return seal_event(self._boxes().event, Event, kind, detail)

    def receive_event(self, data: bytes) -> Actions:
        """EventReceived; raise NotAuthentic if it is forged, repeated or after a gap."""
        return (open_event(self._boxes().parent_event, ParentEvent, data),)

    def _offer_digest(self) -> bytes:
        return self._own.config.offer_digest or b""

    def _join(self, data: bytes) -> _Joining:
        offer = Offer.decode(data)
        self._require_family(offer)
        keys = JoinKeys.answer(offer.share, offer.encapsulation_key)
        core = JoinCore(
            technology=self._own.technology,
            nonce=secrets.token_bytes(NONCE_SIZE),
            share=keys.share,
            ciphertext=keys.ciphertext,
            launch_config=self._own.launch_config,
            instance_key=self._instance.public,
        ).encode()
        return _Joining(offer, core, transcript_1(data, core), keys.secrets)

    def _require_family(self, offer: Offer) -> None:
        if offer.technology is not self._own.technology:
            raise RefusedByGuest("offer: the parent is of another technology")
        if offer.policy_digest != self._own.policy_digest:
            raise RefusedByGuest("offer: the parent has another policy")
        if LaunchConfig.decode(offer.launch_config).owner != self._own.config.owner:
            raise RefusedByGuest("offer: the parent has another owner")
        if offer.instance_key == self._instance.public:
            raise RefusedByGuest("offer: the parent is this instance itself")

    def _verify_parent(self, state: _Joining, join_evidence: bytes, evidence: bytes) -> Boxes:
        report_data = parent_report_data(state.t1, join_evidence)
        expected = self._own.expect(report_data, state.offer.launch_config)
        parent = self._verifier(evidence, expected)
        t2 = transcript_2(state.t1, join_evidence, evidence)
        return derive_boxes(parent, report_data=report_data, secrets=state.secrets, t2=t2)

    def _release(self, offer: Offer, content: GrantContent) -> ReleaseState:
        """The manifest is the one that was offered, and the lineage ends in this very place."""
        if not hmac.compare_digest(manifest_digest(content.manifest), offer.manifest_digest):
            raise NotAuthentic("grant: the manifest is not the one that was offered")
        lineage = Lineage.decode(content.lineage)
        lineage.verify(self._own.config.owner)
        self._require_place(offer, lineage)
        return ReleaseState(Manifest.decode(content.manifest), lineage, lineage.generation)

    def _require_place(self, offer: Offer, lineage: Lineage) -> None:
        if not lineage.certificates:
            raise NotAuthentic("grant: the lineage has no certificate for this child")
        forked_before = len(lineage.certificates) > 1
        if forked_before != (LaunchConfig.decode(offer.launch_config).role is Role.CHILD):
            raise NotAuthentic("grant: the lineage does not fit how the parent was launched")
        mine = lineage.certificates[-1]
        certified = (mine.fork_id, mine.child_index, mine.manifest_digest)
        if certified != (offer.fork_id, offer.child_index, offer.manifest_digest):
            raise NotAuthentic("grant: the lineage is that of another fork or place in it")
        if (mine.parent, mine.child) != (offer.instance_key, self._instance.public):
            raise NotAuthentic("grant: the lineage is that of another child")

    def _boxes(self) -> LaterBoxes:
        if not isinstance(self._state, _GrantTaken):
            raise WrongState("this child has no GRANT yet")
        return self._state.boxes
