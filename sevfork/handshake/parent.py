"""The parent's side of one OFFER: bytes in, actions out, no I/O and no clock."""

from __future__ import annotations

import hashlib
import secrets

from msgspec import Struct

from sevfork.attest.verdict import VerifiedReport
from sevfork.errors import NotAuthentic, RefusedByGuest, WrongState
from sevfork.handshake.actions import Actions, Confirmed, NeedEvidence, Send
from sevfork.handshake.audit_entries import ChildActivated, KeysGranted
from sevfork.handshake.events import open_event, seal_event
from sevfork.handshake.instance import InstanceKey
from sevfork.handshake.keys import LaterBoxes, OfferKeys, SharedSecrets, derive_boxes
from sevfork.handshake.launch import LaunchConfig, Role
from sevfork.handshake.lineage import MAX_DESCENT, Lineage
from sevfork.handshake.manifest import TO_COME, Manifest, manifest_digest
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
from sevfork.handshake.slot import Slot
from sevfork.handshake.transcript import (
    check_join_signature,
    child_report_data,
    parent_report_data,
    transcript_1,
    transcript_2,
)
from sevfork.handshake.warm_messages import WarmGrantContent
from sevfork.handshake.warm_parent import Activated, Called, Holding, WarmChild
from sevfork.unshown import Unshown

# The states hold what may still be used in them, so that leaving a state erases its secrets.


class _Offered(Unshown, Struct, frozen=True, weakref=True):
    """Waiting for a JOIN, or without a manifest for the capture first.

    The only state with private keys.
    """

    keys: OfferKeys
    manifest: bytes | None


class _Granting(Unshown, Struct, frozen=True, weakref=True):
    """Spent on one verified child; waiting for the parent's own evidence."""

    received: bytes
    join: Join
    core: JoinCore
    child: VerifiedReport
    t1: bytes
    secrets: SharedSecrets
    manifest: bytes

    def again(self) -> Actions:
        return (NeedEvidence(parent_report_data(self.t1, self.join.evidence)),)


class _GrantSent(Unshown, Struct, frozen=True, weakref=True):
    """The GRANT is made. It can be sent again byte for byte, and never be made again or opened.

    ``warm`` is what is needed of a child that is to be called later, and None of any other.
    """

    received: bytes
    grant: bytes
    child_key: bytes
    boxes: LaterBoxes
    warm: WarmChild | None = None

    def again(self) -> Actions:
        return (Send(self.grant),)


class _Confirmed(Unshown, Struct, frozen=True):
    child_key: bytes
    boxes: LaterBoxes


class _Dead(Struct, frozen=True):
    reason: str


_State = _Offered | _Granting | _GrantSent | Holding | Called | Activated | _Confirmed | _Dead


class ParentSession:
    """One OFFER for one child; ``now`` is monotonic time in seconds, from the caller."""

    def __init__(
        self,
        own: OwnLaunch,
        instance: InstanceKey,
        lineage: Lineage,
        slot: Slot,
        manifest: Manifest | None,
        verifier: Verifier,
        *,
        now: float,
        lifetime_s: float,
        image_key_lifetime_s: float,
        warm: bool = False,
        warm_lifetime_s: float = 0.0,
    ) -> None:
        """``lineage`` is the parent's own. Without a manifest the OFFER is good from ``captured``
        on, and times count from then. A child that has its GRANT must confirm it within
        ``image_key_lifetime_s`` of the OFFER: whatever holds the image's key is then erased.

        With ``warm`` the GRANT makes no child yet: it makes a VM that holds the manifest's layers,
        for ``warm_lifetime_s`` from the OFFER on, until a CALL gives it its place.

        Raises NotAuthentic if it does not verify, WrongState if it is another VM's or the
        generation does not follow, RefusedByGuest if the descent has become too long.
        """
        _require_fit(own, instance, lineage, slot)
        self._own, self._instance, self._lineage, self._slot = own, instance, lineage, slot
        self._verifier = verifier
        self._lifetime_s, self._image_key_lifetime_s = lifetime_s, image_key_lifetime_s
        self._warm, self._warm_expires = warm, now + warm_lifetime_s
        self._start_deadlines(now)
        keys, encoded = OfferKeys(), manifest.encode() if manifest else None
        digest = manifest_digest(encoded) if encoded else TO_COME
        self.offer = self._make_offer(keys, digest).encode()
        self._state: _State = _Offered(keys, encoded)

    def captured(self, manifest: Manifest, now: float) -> None:
        """What the fork of this OFFER has captured; raises WrongState if it has already, or ended.

        A capture may last longer than an OFFER is good: that counts from here.
        """
        state = self._state
        if not isinstance(state, _Offered) or state.manifest is not None:
            raise WrongState("offer: it does not wait for a capture")
        self._start_deadlines(now)
        self._state = _Offered(state.keys, manifest.encode())

    @property
    def spent(self) -> bool:
        """Whether nobody can join by this OFFER any more."""
        return not isinstance(self._state, _Offered)

    @property
    def holds(self) -> bool:
        """Whether a warm child can be called, unless ``expire`` finds it too old by now."""
        return isinstance(self._state, Holding | Called)

    def receive_join(self, data: bytes, now: float) -> Actions:
        """NeedEvidence for a child that passed every check; the GRANT again for the same JOIN.

        Raises NotAuthentic, AttestationFailed (the OFFER stays good for the true child), or
        RefusedByGuest if the OFFER is spent, expired, or not for this child.
        """
        self._require_alive(now)
        self._require_in_time(now, "offer", "GRANT")
        state = self._state
        if isinstance(state, _Offered):
            if state.manifest is None:
                raise RefusedByGuest("offer: its fork has captured nothing yet")
            return self._spend(state, state.manifest, data)
        if isinstance(state, _Granting | _GrantSent) and state.received == data:
            return state.again()
        raise RefusedByGuest("offer: it is spent on another JOIN")

    def provide_evidence(self, evidence: bytes, now: float) -> Actions:
        """The GRANT, from the parent's evidence for the report data that was asked for."""
        self._require_alive(now)
        state = self._state
        if not isinstance(state, _Granting):
            raise WrongState("offer: no evidence was asked for")
        t2 = transcript_2(state.t1, state.join.evidence, evidence)
        report_data = child_report_data(state.t1)
        boxes = derive_boxes(state.child, report_data=report_data, secrets=state.secrets, t2=t2)
        grant = Grant(evidence, boxes.grant.seal(self._content(state))).encode()
        held = WarmChild(state.child, state.core, t2, boxes.warm, boxes.later)
        warm = held if self._warm else None
        self._state = _GrantSent(state.received, grant, state.core.instance_key, boxes.later, warm)
        recipient = self._slot.recipient(state.core.instance_key, state.manifest)
        return (Send(grant, KeysGranted(recipient, self._warm)),)

    def receive_confirm(self, data: bytes) -> Actions:
        """Confirmed: once by a child, and once before that by one that is kept warm.

        Raises NotAuthentic if it is forged, WrongState at any other time.
        """
        state = self._state
        if not isinstance(state, _GrantSent | Activated):
            raise WrongState("confirm: no child is about to confirm this OFFER")
        if state.boxes.confirm.open(Confirm.decode(data).box):
            raise NotAuthentic("confirm: the box is not empty")
        warm = state.warm if isinstance(state, _GrantSent) else None
        self._state = Holding(warm) if warm else _Confirmed(state.child_key, state.boxes)
        return (Confirmed(state.child_key),)

    def update(self, manifest: Manifest, now: float) -> bytes:
        """The UPDATE, for a warm child that holds an earlier chain and has not been called.

        Raises RefusedByGuest if the child has become too old, WrongState if there is none.
        """
        self._require_alive(now)
        state = self._state
        if not isinstance(state, Holding) or state.was_called:
            raise WrongState("update: there is no warm child that takes one")
        return state.child.update(manifest)

    def call(self, slot: Slot, manifest: Manifest, now: float) -> bytes:
        """The CALL of a warm child into a slot, with the whole chain; it replaces an earlier CALL.

        Raises RefusedByGuest if the child has become too old, WrongState if there is none, or it
        was activated already, or the generation does not follow.
        """
        self._require_alive(now)
        if not isinstance(self._state, Holding | Called):
            raise WrongState("call: there is no warm child to be called")
        _require_after(self._lineage, slot)
        self._start_deadlines(now)
        self._state = Called.make(self._state.child, slot, manifest)
        return self._state.call

    def receive_answer(self, data: bytes, now: float) -> Actions:
        """The ACTIVATE for an ANSWER that passed every check, and again for the same ANSWER.

        Raises NotAuthentic, AttestationFailed (the CALL stays good for the true ANSWER), or
        RefusedByGuest if there is no CALL, or it is spent, withdrawn or out of time.
        """
        self._require_alive(now)
        state = self._state
        if isinstance(state, Called):  # its time is not over: it would have been withdrawn
            self._state = activated = self._activate(state, data)
            return (Send(activated.activate, ChildActivated(state.recipient)),)
        if not isinstance(state, Activated) or state.received != data:
            raise RefusedByGuest("answer: no CALL is open, or it is spent on another ANSWER")
        self._require_in_time(now, "answer", "ACTIVATE")
        return state.again()

    def withdraw(self) -> None:
        """Erase what a CALL without an ANSWER has promised; the child can be called again."""
        if isinstance(self._state, Called):
            self._state = Holding(self._state.child, was_called=True)

    def receive_event(self, data: bytes) -> Actions:
        """EventReceived; a child whose restore fails says so without ever having confirmed."""
        return (open_event(self._boxes().event, Event, data),)

    def event(self, kind: EventKind, detail: bytes = b"") -> bytes:
        """An event for the child."""
        return seal_event(self._boxes().parent_event, ParentEvent, kind, detail)

    def expire(self, now: float) -> bool:
        """Erase the keys of whatever has run out of its time; whether the OFFER is dead.

        A CALL whose time is over is withdrawn: its child is held on to as long as it may be.
        """
        state = self._state
        if now >= self._expires and isinstance(state, _Offered | _Granting):
            self._state = _Dead("it has expired")
        if now >= self._keys_expire and isinstance(state, _GrantSent):
            self._state = _Dead("its GRANT was not confirmed in time")
        if now >= self._keys_expire and isinstance(state, Activated):
            self._state = _Dead("its ACTIVATE was not confirmed in time")
        if now >= self._expires:
            self.withdraw()
        if now >= self._warm_expires and isinstance(state, Holding | Called):
            self._state = _Dead("the warm child has become too old")
        return isinstance(self._state, _Dead)

    def abandon(self) -> None:
        """Erase everything: no GRANT, no CONFIRM and no event any more."""
        self._state = _Dead("it was abandoned")

    def _start_deadlines(self, now: float) -> None:
        """Of an OFFER or a CALL: until when it is good, and what follows it is to be confirmed."""
        self._keys_expire = now + self._image_key_lifetime_s
        self._expires = min(now + self._lifetime_s, self._keys_expire)

    def _make_offer(self, keys: OfferKeys, digest: bytes) -> Offer:
        return Offer(
            technology=self._own.technology,
            fork_id=self._slot.fork_id,
            child_index=self._slot.child_index,
            nonce=secrets.token_bytes(NONCE_SIZE),
            share=keys.share,
            encapsulation_key=keys.encapsulation_key,
            launch_config=self._own.launch_config,
            instance_key=self._instance.public,
            manifest_digest=digest,
            policy_digest=self._own.policy_digest,
        )

    def _spend(self, state: _Offered, manifest: bytes, data: bytes) -> Actions:
        """Verify the child, agree on secrets, and let go of the private keys for good."""
        join = Join.decode(data)
        core = JoinCore.decode(join.core)
        self._require_child(core)
        t1 = transcript_1(self.offer, join.core)
        expected = self._own.expect(child_report_data(t1), core.launch_config)
        child = self._verifier(join.evidence, expected)
        check_join_signature(core.instance_key, t1, join.signature)
        shared = state.keys.agree(core.share, core.ciphertext)
        granting = _Granting(data, join, core, child, t1, shared, manifest)
        self._state = granting
        return granting.again()

    def _require_child(self, core: JoinCore) -> None:
        """What the evidence will be checked against must name a child of exactly this OFFER."""
        if core.technology is not self._own.technology:
            raise RefusedByGuest("join: the child is of another technology")
        config = LaunchConfig.decode(core.launch_config)
        if config.role is not Role.CHILD or config.owner != self._own.config.owner:
            raise RefusedByGuest("join: the VM was not launched as a child of this owner")
        if config.offer_digest != hashlib.sha384(self.offer).digest():
            raise RefusedByGuest("join: the VM was launched for another OFFER")
        if core.instance_key in self._lineage.keys:
            raise RefusedByGuest("join: the instance is the parent itself, or an ancestor")

    def _content(self, state: _Granting) -> bytes:
        """What the GRANT's box holds; a child that is kept warm has no place in a fork yet."""
        if self._warm:
            return WarmGrantContent(state.manifest).encode()
        lineage = self._descent(state.core.instance_key, self._slot, state.manifest)
        return GrantContent(state.manifest, lineage).encode()

    def _activate(self, state: Called, data: bytes) -> Activated:
        """Verify the child once more, agree on K3, and let go of the private key for good."""
        boxes = state.agree(data, self._own, self._verifier)
        lineage = self._descent(state.child.core.instance_key, state.slot, state.manifest)
        return state.activated(data, boxes, lineage)

    def _descent(self, child: bytes, slot: Slot, manifest: bytes) -> bytes:
        """The encoded lineage of the child with this instance key."""
        certificate = slot.certify(self._instance, child, manifest)
        return self._lineage.extended(certificate).encode()

    def _require_alive(self, now: float) -> None:
        self.expire(now)
        if isinstance(self._state, _Dead):
            raise RefusedByGuest(f"offer: {self._state.reason}", hint="fork again")

    def _require_in_time(self, now: float, what: str, message: str) -> None:
        if now >= self._expires:
            raise RefusedByGuest(f"{what}: the time in which its {message} is sent again is over")

    def _boxes(self) -> LaterBoxes:
        state = self._state
        if isinstance(state, Holding | Called):
            return state.child.boxes
        if isinstance(state, _GrantSent | Activated | _Confirmed):
            return state.boxes
        raise WrongState("event: this OFFER has no child")


def _require_fit(own: OwnLaunch, instance: InstanceKey, lineage: Lineage, slot: Slot) -> None:
    lineage.verify(own.config.owner)
    was_forked = own.config.role is Role.CHILD
    if lineage.keys[-1] != instance.public or bool(lineage.certificates) != was_forked:
        raise WrongState("lineage: it is that of another VM")
    _require_after(lineage, slot)
    if len(lineage.certificates) >= MAX_DESCENT:
        raise RefusedByGuest(f"lineage: a descent of {MAX_DESCENT} forks cannot be forked again")


def _require_after(lineage: Lineage, slot: Slot) -> None:
    if slot.generation <= lineage.generation:
        raise WrongState(f"lineage: generation {slot.generation} is not after its own")
