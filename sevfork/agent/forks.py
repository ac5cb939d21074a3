"""The parent's side inside the guest: captures, and the OFFERs that are open for them.

Everything here lives in RAM and dies with the agent. The host may ask for anything in any order;
what a JOIN must prove is decided in ``sevfork.handshake``, and who may ask for a capture, here.
"""

from __future__ import annotations

import logging
import secrets
import time

from msgspec import Struct, field
from msgspec.structs import replace

from sevfork.agent.audit import AuditLog
from sevfork.agent.captures import Captures
from sevfork.agent.chronicle import Chronicle
from sevfork.agent.engine import Engine
from sevfork.agent.evidence.provider import EvidenceProvider
from sevfork.agent.identity import Identity, PolicyVerifier
from sevfork.agent.kin import Kin
from sevfork.agent.serve import OnProgress
from sevfork.errors import RefusedByGuest, UsageError, WrongState
from sevfork.handshake import (
    Actions,
    InstanceKey,
    Lineage,
    Manifest,
    NeedEvidence,
    OwnerCertificate,
    OwnerToken,
    ParentSession,
    Send,
    Slot,
    TokenGate,
    on_chips,
)
from sevfork.handshake.audit_entries import PlaceTaken
from sevfork.handshake.messages import FORK_ID_SIZE
from sevfork.unshown import Unshown
from sevfork.wire import protocol
from sevfork.wire.protocol import MAX_CHILDREN, MAX_FAMILY

log = logging.getLogger(__name__)

MAX_OPEN_FORKS = 8
# A spent OFFER is kept for its child's CONFIRM and events. Twice what may be open, so that what is
# open is never forgotten: 20 MiB at most (measured: 19 KiB for an open one, with OpenSSL's keys).
MAX_KEPT_OFFERS = 2 * MAX_OPEN_FORKS * MAX_CHILDREN
MAX_WARM = MAX_CHILDREN
_SNAPSHOT = bytes(FORK_ID_SIZE)  # in place of a fork id
_VM_ID_SIZE = 16


class Party(Struct, frozen=True):
    """What a VM brings into a handshake as a parent."""

    identity: Identity
    key: InstanceKey
    lineage: Lineage
    verifier: PolicyVerifier
    provider: EvidenceProvider


class _Fork(Unshown, Struct):
    """One reservation: its OFFERs' children in index order.

    ``warm``: they are to hold the snapshot. The others wait for one capture, with the ``token``
    that it spends, until ``was_captured``. ``manifest`` is what it made, for warm children to be
    called to until ``callable_until``. Those that were ``called`` have the places after those of
    the OFFERs.
    """

    kin: tuple[Kin, ...]
    warm: bool
    token: OwnerToken | None = None
    was_captured: bool = False
    manifest: Manifest | None = None
    callable_until: float = 0.0
    called: list[Kin] = field(default_factory=list)

    @property
    def sessions(self) -> tuple[ParentSession, ...]:
        return tuple(kin.session for kin in self.kin)

    def is_open(self, now: float) -> bool:
        """Whether somebody can still join, or be called."""
        if self.manifest is not None and now < self.callable_until:
            return True
        return any(not session.spent and not session.expire(now) for session in self.sessions)

    def waits_for_capture(self, now: float) -> bool:
        """Whether it has captured nothing yet, and its OFFERs are good."""
        dead = [session.expire(now) for session in self.sessions]
        return not (self.warm or self.was_captured or any(dead))

    @property
    def waiting(self) -> int:
        """How many warm children wait for a call."""
        return sum(session.holds for session in self.sessions)

    def next_index(self, kin: Kin) -> int:
        """The place of one more child that is called."""
        index = len(self.kin) + len(self.called)
        if index >= MAX_CHILDREN:
            raise RefusedByGuest(f"a fork has at most {MAX_CHILDREN} children")
        self.called.append(kin)
        return index

    def at(self, index: int) -> Kin | None:
        """Whose place that is: by its OFFER, or because it was called to it."""
        everybody = (*self.kin, *self.called)
        return everybody[index] if 0 <= index < len(everybody) else None


class Forks:
    """All captures of this VM that may still have children, and its warm children."""

    def __init__(self, me: Party, engine: Engine, chronicle: Chronicle, audit: AuditLog) -> None:
        self._me, self._chronicle, self._audit = me, chronicle, audit
        audit.append(PlaceTaken.of(me.lineage))
        self._gate = TokenGate(me.identity.launch, me.key.public)
        self._captures = Captures(engine, me.key.instance_id[:_VM_ID_SIZE], self._generation)
        self._forks: dict[bytes, _Fork] = {}

    def handle(self, request: protocol.Request) -> protocol.Reply:
        """Everything but captures."""
        match request:
            case protocol.Reserve():
                return self.reserve(request)
            case protocol.Refresh():
                return self.refresh(request)
            case protocol.Call():
                return self.call(request)
            case protocol.RelayAnswer():
                return self.answer(request)
            case protocol.RelayJoin():
                return self.join(request)
            case protocol.RelayConfirm():
                self.confirm(request)
            case protocol.RelayEvent():
                self.event(request)
            case protocol.ListFamily():
                return self.family()
            case protocol.ReadChronicle(after=after):
                return protocol.Chronicle(self._chronicle.after(after))
            case protocol.ReportLost():
                self.lost(request)
            case protocol.Abandon(fork_id=fork_id):
                self.abandon(fork_id)
            case protocol.DropSnapshot():
                self._captures.drop()
            case protocol.GetLineage():
                return protocol.Descent(self._me.lineage.encode())
            case protocol.Adopt(certificate=certificate):
                self.adopt(certificate)
            case _:
                raise TypeError(f"not a parent's: {type(request).__name__}")
        return protocol.Done()

    def adopt(self, certificate: bytes) -> None:
        """Take the owner's word on this root into its lineage, and so into its children's."""
        me, owner = self._me, self._me.identity.config.owner
        lineage = me.lineage.adopted(OwnerCertificate.decode(certificate), owner)
        if lineage != me.lineage:
            self._me = replace(me, lineage=lineage)
            self._audit.append(PlaceTaken.of(lineage))
        log.info("adopted by the owner")

    def update_snapshot(
        self, request: protocol.UpdateSnapshot, progress: OnProgress
    ) -> protocol.SnapshotMade:
        """One more layer of the snapshot, or a new one; raises as ``capture`` does."""
        made, manifest = self._captures.update_snapshot(request.volume_serial, progress)
        self._audit.captured(_SNAPSHOT, manifest, made.state_bytes)
        return made

    def capture(self, request: protocol.Capture, progress: OnProgress) -> protocol.Captured:
        """Seal the workload's state into the volume, for the children of a fork.

        Raises RefusedByGuest (no such fork, it has captured already, policy), HostCannot (volume),
        and the engine's errors; the workload runs on, whatever happens.
        """
        fork = self._forks.get(request.fork_id)
        if fork is None or not fork.waits_for_capture(time.monotonic()):
            raise RefusedByGuest("there is no fork that waits for a capture", hint="fork again")
        kept = self._captures.is_kept_in(request.volume_serial)
        seal = self._captures.update if kept else self._captures.once
        with self._gate.counted(fork.token, len(fork.sessions)):
            captured = seal(request.volume_serial, progress)
        self._audit.captured(request.fork_id, captured.manifest, captured.state_bytes)
        now = time.monotonic()
        fork.was_captured = True
        for session in fork.sessions:
            session.captured(captured.manifest, now)
        if kept:
            lifetime_s = self._me.verifier.policy.image_key_lifetime_s
            fork.manifest, fork.callable_until = captured.manifest, now + lifetime_s
        pause_ms = captured.cost.pause_ms
        log.info("captured for %d children, pause %.0f ms", len(fork.sessions), pause_ms)
        return protocol.Captured(pause_ms, captured.state_bytes, captured.sealed_bytes)

    def reserve(self, request: protocol.Reserve) -> protocol.Reserved:
        """One OFFER a child: of a capture that follows, or to hold the snapshot that there is.

        Raises UsageError, RefusedByGuest (not adopted, policy, too many), WrongState (no snapshot).
        """
        self._require_adopted()
        manifest = self._captures.manifest
        # All children of a fork may be warm ones, which are called later.
        least = 0 if manifest is not None and not request.warm else 1
        if not least <= request.count <= MAX_CHILDREN:
            raise UsageError(f"a fork has {least} to {MAX_CHILDREN} children, not {request.count}")
        token = self._require_token(request.count, request.token)
        self._require_room(request.count)
        if request.warm:
            self._require_warm(request.count, manifest)
        # What a fork captures is counted when it does.
        with self._gate.counted(token if request.warm else None, request.count):
            fork_id = secrets.token_bytes(FORK_ID_SIZE)
            chips = token.allowed.chips if token else ()
            kin = self._offer(fork_id, request.count, manifest if request.warm else None, chips)
        fork = self._forks[fork_id] = _Fork(kin, request.warm, token)
        return protocol.Reserved(fork_id, [session.offer for session in fork.sessions])

    def refresh(self, request: protocol.Refresh) -> protocol.Refreshed:
        """The UPDATE for one warm child."""
        session, manifest = self._session(request.fork_id, request.index), self._captures.manifest
        if manifest is None:
            raise WrongState("this VM keeps no snapshot any more")
        return protocol.Refreshed(session.update(manifest, time.monotonic()))

    def call(self, request: protocol.Call) -> protocol.Called:
        """The CALL of a warm child to be one of a capture's children."""
        kin, now = self._kin(request.fork_id, request.index), time.monotonic()
        fork = self._forks.get(request.capture)
        if fork is None or fork.manifest is None or now >= fork.callable_until:
            raise RefusedByGuest("there is no such capture to be called to", hint="fork again")
        slot = Slot(request.capture, fork.next_index(kin), self._generation)
        call = kin.session.call(slot, fork.manifest, now)
        kin.fork_id, kin.index = slot.fork_id, slot.child_index
        return protocol.Called(call, slot.child_index)

    def answer(self, request: protocol.RelayAnswer) -> protocol.Activated:
        """ACTIVATE, for an ANSWER that passed every check."""
        session = self._session(request.fork_id, request.index)
        actions = session.receive_answer(request.answer, time.monotonic())
        self._audit.note(actions)
        return protocol.Activated(sent(actions))

    def join(self, request: protocol.RelayJoin) -> protocol.Granted:
        """The GRANT for a JOIN that passed every check."""
        session = self._session(request.fork_id, request.index)
        now = time.monotonic()
        actions = session.receive_join(request.join, now)
        for action in actions:
            if isinstance(action, NeedEvidence):
                evidence = self._me.provider.evidence(action.report_data).encode()
                actions = session.provide_evidence(evidence, now)
        self._audit.note(actions)
        return protocol.Granted(sent(actions))

    def confirm(self, request: protocol.RelayConfirm) -> None:
        self._kin(request.fork_id, request.index).confirm(request.message)
        log.info("child %d has confirmed", request.index)

    def event(self, request: protocol.RelayEvent) -> None:
        """Raises NotAuthentic for any but the child's next one, RefusedByGuest for too many."""
        told = self._kin(request.fork_id, request.index).hear(request.message)
        log.info("child %d: %s", request.index, told.event)
        self._chronicle.write(told)

    def lost(self, request: protocol.ReportLost) -> None:
        """Told once, until it is heard of again; it goes on being listened to."""
        told = self._kin(request.fork_id, request.index).lose()
        if told is not None:
            self._chronicle.write(told)

    def family(self) -> protocol.Family:
        """The youngest, where there are too many for one reply."""
        kin = (each for fork in self._forks.values() for each in fork.kin)
        known = [each.known() for each in kin if each.unique_id]
        return protocol.Family(known[-MAX_FAMILY:])

    def abandon(self, fork_id: bytes) -> None:
        """Erase what no child has confirmed; children that live go on sending their events.

        A warm child that was not called is no child yet: it is given up too.
        """
        fork = self._forks.get(fork_id)
        if fork is None:
            return
        fork.manifest, fork.was_captured = None, True
        for kin in fork.kin:
            if not kin.confirmed or kin.session.holds:
                kin.session.abandon()

    def forget_expired(self) -> None:
        now = time.monotonic()
        for fork in self._forks.values():
            if now >= fork.callable_until:
                fork.manifest = None
            for session in fork.sessions:
                session.expire(now)

    @property
    def _generation(self) -> int:
        """Of this VM's children."""
        return self._me.lineage.generation + 1

    def _require_adopted(self) -> None:
        """A VM that has an owner forks for nobody before its owner has said that it is a root."""
        if self._me.identity.config.owner and not self._me.lineage.owner_certificate:
            raise RefusedByGuest(
                "this VM's owner has not adopted it yet, and until then it cannot be forked",
                hint="to be run by its owner: sevfork owner adopt {vm} --policy FILE",
            )

    def _require_token(self, count: int, encoded_token: bytes | None) -> OwnerToken | None:
        """The owner's token, good for so many children now, if the policy asks for one."""
        if count == 0 or self._me.verifier.policy.fork != "owner":
            return None
        return self._gate.check(encoded_token, count, self._me.verifier.clock().timestamp())

    def _require_warm(self, count: int, manifest: Manifest | None) -> None:
        if manifest is None:
            raise WrongState("this VM keeps no snapshot that a warm child could hold")
        if sum(fork.waiting for fork in self._forks.values()) + count > MAX_WARM:
            raise RefusedByGuest(f"a VM has at most {MAX_WARM} warm children")

    def _require_room(self, count: int) -> None:
        now = time.monotonic()
        if sum(fork.is_open(now) for fork in self._forks.values()) >= MAX_OPEN_FORKS:
            raise RefusedByGuest(
                f"{MAX_OPEN_FORKS} captures of this VM have open OFFERs",
                hint="wait until their children have joined or their time is over",
            )
        self._make_room(count, now)

    def _make_room(self, count: int, now: float) -> None:
        """Forget the oldest captures that nobody can join any more."""
        kept = sum(len(fork.kin) for fork in self._forks.values())
        for fork_id, fork in list(self._forks.items()):
            if kept + count > MAX_KEPT_OFFERS and not fork.is_open(now) and not fork.waiting:
                kept -= len(fork.kin)
                del self._forks[fork_id]

    def _offer(
        self, fork_id: bytes, count: int, manifest: Manifest | None, chips: tuple[bytes, ...]
    ) -> tuple[Kin, ...]:
        """With a manifest, OFFERs for warm children that are to hold it."""
        me, now, policy = self._me, time.monotonic(), self._me.verifier.policy
        sessions = (
            ParentSession(
                me.identity.launch,
                me.key,
                me.lineage,
                Slot(fork_id, index, self._generation),
                manifest,
                on_chips(me.verifier, chips),
                now=now,
                lifetime_s=policy.offer_lifetime_s,
                image_key_lifetime_s=policy.image_key_lifetime_s,
                warm=manifest is not None,
                warm_lifetime_s=policy.warm_lifetime_s,
            )
            for index in range(count)
        )
        return tuple(Kin(session, fork_id, index) for index, session in enumerate(sessions))

    def _session(self, fork_id: bytes, index: int) -> ParentSession:
        return self._kin(fork_id, index).session

    def _kin(self, fork_id: bytes, index: int) -> Kin:
        fork = self._forks.get(fork_id)
        kin = fork.at(index) if fork else None
        if kin is None:
            raise RefusedByGuest(
                "there is no such OFFER", hint="the agent has restarted, or the fork was abandoned"
            )
        return kin


def sent(actions: Actions) -> bytes:
    """The one message that a step of a handshake sends."""
    messages = [action.message for action in actions if isinstance(action, Send)]
    if len(messages) != 1:
        raise WrongState("the handshake is not at the step that was asked for")
    return messages[0]
