"""The child's side: bytes in, actions out, no I/O and no clock."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from msgspec import Struct
from msgspec.structs import replace

from sevfork.errors import NotAuthentic, RefusedByGuest, WrongState
from sevfork.handshake.actions import Actions, HoldState, NeedEvidence, Send
from sevfork.handshake.events import open_event, seal_event
from sevfork.handshake.instance import InstanceKey
from sevfork.handshake.keys import JoinKeys, LaterBoxes, SharedSecrets, derive_boxes
from sevfork.handshake.launch import LaunchConfig, Role
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
from sevfork.handshake.place import Place
from sevfork.handshake.transcript import (
    child_report_data,
    join_signature,
    parent_report_data,
    transcript_1,
    transcript_2,
)
from sevfork.handshake.warm_child import Called, Held, Holding
from sevfork.handshake.warm_messages import WarmGrantContent
from sevfork.unshown import Unshown


class _Waiting(Struct, frozen=True):
    """Nothing came yet."""


class _Joining(Unshown, Struct, frozen=True):
    """The OFFER is accepted; the child's own evidence is awaited, then the GRANT.

    ``evidence`` is what the JOIN was made with, or None until then.
    """

    offer: Offer
    core: bytes
    t1: bytes
    signature: bytes
    secrets: SharedSecrets
    evidence: bytes | None = None

    def again(self) -> Actions:
        if self.evidence is None:
            return (NeedEvidence(child_report_data(self.t1)),)
        return (Send(Join(self.core, self.signature, self.evidence).encode()),)


class _Granted(Unshown, Struct, frozen=True):
    """The one GRANT, or the ACTIVATE of a warm child, was used, and its key is gone."""

    boxes: LaterBoxes


class ChildSession:
    """Joins the one OFFER that this VM was launched for, and uses one GRANT.

    If that says so the child is kept warm: it holds a state that is updated, and uses one ACTIVATE.
    """

    def __init__(self, own: OwnLaunch, instance: InstanceKey, verifier: Verifier) -> None:
        """Raise RefusedByGuest if this VM was not launched as a child."""
        if own.config.role is not Role.CHILD:
            raise RefusedByGuest("this VM was launched as a root, and a root takes no OFFER")
        self._own, self._instance, self._verifier = own, instance, verifier
        self._state: _Waiting | _Joining | Holding | Called | _Granted = _Waiting()

    def receive_offer(self, data: bytes) -> Actions:
        """NeedEvidence, and after that the same JOIN again.

        Raises NotAuthentic if it is not the OFFER that the hardware has signed the hash of, or is
        malformed; RefusedByGuest if it is of another family or policy, or the GRANT is used.
        """
        if not hmac.compare_digest(hashlib.sha384(data).digest(), self._offer_digest()):
            raise NotAuthentic("offer: this VM was launched for another one")
        state = self._state
        if not isinstance(state, _Waiting | _Joining):
            raise RefusedByGuest("offer: this child has used its GRANT")
        self._state = state = self._join(data) if isinstance(state, _Waiting) else state
        return state.again()

    def provide_evidence(self, evidence: bytes) -> Actions:
        """The JOIN or the ANSWER, from the child's evidence for what was asked for."""
        state = self._state
        if not isinstance(state, _Joining | Called) or state.evidence is not None:
            raise WrongState("join: no evidence was asked for")
        self._state = state = replace(state, evidence=evidence)
        return state.again()

    def receive_grant(self, data: bytes) -> Actions:
        """ReleaseState or, for a child that is kept warm, HoldState; once.

        Raises NotAuthentic or AttestationFailed if the GRANT is not for this very JOIN, and
        WrongState before the JOIN and after the GRANT.
        """
        state = self._state
        if not isinstance(state, _Joining) or state.evidence is None:
            raise WrongState("grant: this child is not waiting for one")
        held, content = self._open(state, state.evidence, Grant.decode(data))
        place = Place.of_offer(state.offer, self._instance.public)
        if WarmGrantContent.is_in(content):
            manifest = place.manifest(WarmGrantContent.decode(content).manifest)
            self._state = Holding(held)
            return (HoldState(manifest),)
        released = place.release(self._own, GrantContent.decode(content))
        self._state = _Granted(held.boxes)
        return (released,)

    def receive_update(self, data: bytes) -> Actions:
        """HoldState with the whole chain as it now is: an extension of what is held, or another.

        Raises NotAuthentic if it is forged, repeated or after a gap, and WrongState in a child
        that is not kept warm or has taken a CALL.
        """
        if not isinstance(self._state, Holding):
            raise WrongState("update: this child does not wait for one")
        return (self._state.update(data),)

    def receive_call(self, data: bytes) -> Actions:
        """NeedEvidence, and after that the same ANSWER again; another CALL takes this one's place.

        Raises NotAuthentic if it is malformed, and WrongState in a child that is not kept warm,
        has not confirmed that it holds, or was activated. A CALL is not authentic by itself: one
        of the host's own gets an ANSWER, and no ACTIVATE that opens.
        """
        state = self._state
        if isinstance(state, Called) and state.received == data:
            return state.again()
        if not isinstance(state, Holding | Called):
            raise WrongState("call: this child is not kept warm")
        self._state = called = state.held.called(data)
        return called.again()

    def receive_activate(self, data: bytes) -> Actions:
        """ReleaseState, once.

        Raises NotAuthentic if the ACTIVATE is not for this very ANSWER or gives anything else than
        what the CALL has promised, and WrongState before the ANSWER and after the ACTIVATE.
        """
        state = self._state
        if not isinstance(state, Called) or state.evidence is None:
            raise WrongState("activate: this child is not waiting for one")
        released, boxes = state.activate(data, state.evidence, self._own, self._instance.public)
        self._state = _Granted(boxes)
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
        t1 = transcript_1(data, core)
        return _Joining(offer, core, t1, join_signature(self._instance, t1), keys.secrets)

    def _require_family(self, offer: Offer) -> None:
        if offer.technology is not self._own.technology:
            raise RefusedByGuest("offer: the parent is of another technology")
        if offer.policy_digest != self._own.policy_digest:
            raise RefusedByGuest("offer: the parent has another policy")
        if LaunchConfig.decode(offer.launch_config).owner != self._own.config.owner:
            raise RefusedByGuest("offer: the parent has another owner")
        if offer.instance_key == self._instance.public:
            raise RefusedByGuest("offer: the parent is this instance itself")

    def _open(self, state: _Joining, join_evidence: bytes, grant: Grant) -> tuple[Held, bytes]:
        """Verify the parent and open its box; what would be held on to, and what was in the box."""
        report_data = parent_report_data(state.t1, join_evidence)
        expected = self._own.expect(report_data, state.offer.launch_config)
        parent = self._verifier(grant.evidence, expected)
        t2 = transcript_2(state.t1, join_evidence, grant.evidence)
        boxes = derive_boxes(parent, report_data=report_data, secrets=state.secrets, t2=t2)
        held = Held(state.offer, parent, report_data, t2, boxes.warm, boxes.later)
        return held, boxes.grant.open(grant.box)

    def _boxes(self) -> LaterBoxes:
        state = self._state
        if isinstance(state, Holding | Called):
            return state.held.boxes
        if isinstance(state, _Granted):
            return state.boxes
        raise WrongState("this child has no GRANT yet")
