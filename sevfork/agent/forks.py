"""The parent's side inside the guest: captures, and the OFFERs that are open for them.

Everything here lives in RAM and dies with the agent. The host may ask for anything in any order;
what a JOIN must prove is decided in ``sevfork.handshake``, and who may ask for a capture, here.
"""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass, field

from sevfork.agent.engine import CaptureCost, Engine
from sevfork.agent.evidence.provider import EvidenceProvider
from sevfork.agent.identity import Identity, PolicyVerifier
from sevfork.agent.serve import OnProgress
from sevfork.agent.volume import find_volume
from sevfork.errors import RefusedByGuest, UsageError, WrongState
from sevfork.handshake import (
    Actions,
    InstanceKey,
    Layer,
    Lineage,
    Manifest,
    NeedEvidence,
    OwnerToken,
    ParentSession,
    Send,
    Slot,
    TokenGate,
)
from sevfork.seal import BlockDevice, SealedImage, SealWriter
from sevfork.wire import protocol
from sevfork.wire.protocol import MAX_CHILDREN, Step

log = logging.getLogger(__name__)

MAX_OPEN_FORKS = 8
# A spent OFFER is kept for its child's CONFIRM and events. Twice what may be open, so that what is
# open is never forgotten: 20 MiB at most (measured: 19 KiB for an open one, with OpenSSL's keys).
MAX_KEPT_OFFERS = 2 * MAX_OPEN_FORKS * MAX_CHILDREN
_KEY_SIZE = 32
_FORK_ID_SIZE = 16
_VM_ID_SIZE = 16
_REPORT_EVERY_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Party:
    """What a VM brings into a handshake as a parent."""

    identity: Identity
    key: InstanceKey
    lineage: Lineage
    verifier: PolicyVerifier
    provider: EvidenceProvider


@dataclass(frozen=True)
class _Fork:
    """One capture: its sessions in index order, and which of them have come to their end."""

    sessions: tuple[ParentSession, ...]
    confirmed: set[int] = field(default_factory=set)

    def is_open(self, now: float) -> bool:
        """Whether somebody can still join."""
        return any(not session.spent and not session.expire(now) for session in self.sessions)


class Forks:
    """All captures of this VM that may still have children."""

    def __init__(self, me: Party, engine: Engine) -> None:
        self._me, self._engine = me, engine
        policy = me.verifier.policy
        self._gate = TokenGate(me.identity.config.owner, me.key.public, policy.digest)
        self._forks: dict[bytes, _Fork] = {}

    def capture(self, request: protocol.Capture, progress: OnProgress) -> protocol.Captured:
        """Seal the workload's state into the volume and make one OFFER a child.

        Raises UsageError, RefusedByGuest (policy), HostCannot (volume), and the engine's errors;
        the workload runs on, whatever happens.
        """
        token = self._admit(request)
        image_key = secrets.token_bytes(_KEY_SIZE)
        capture, sealed, state_bytes = self._seal(request.volume_serial, image_key, progress)
        layer = Layer(
            image_key=image_key,
            header_digest=sealed.header_digest,
            chunk_count=sealed.chunk_count,
            image_id=sealed.image_id,
            start=0,
        )
        fork_id = secrets.token_bytes(_FORK_ID_SIZE)
        if token is not None:
            self._gate.spend(token)
        sessions = self._offer(fork_id, request.count, Manifest((layer,)))
        self._forks[fork_id] = _Fork(sessions)
        log.info("captured for %d children, pause %.0f ms", request.count, capture.pause_ms)
        return protocol.Captured(
            fork_id=fork_id,
            offers=[session.offer for session in sessions],
            pause_ms=capture.pause_ms,
            state_bytes=state_bytes,
            sealed_bytes=sealed.chunk_count * 2**20,
        )

    def join(self, request: protocol.RelayJoin) -> protocol.Granted:
        """The GRANT for a JOIN that passed every check."""
        session = self._session(request.fork_id, request.index)
        now = time.monotonic()
        actions = session.receive_join(request.join, now)
        for action in actions:
            if isinstance(action, NeedEvidence):
                evidence = self._me.provider.evidence(action.report_data).encode()
                actions = session.provide_evidence(evidence, now)
        return protocol.Granted(sent(actions))

    def confirm(self, request: protocol.RelayConfirm) -> None:
        self._session(request.fork_id, request.index).receive_confirm(request.message)
        self._forks[request.fork_id].confirmed.add(request.index)
        log.info("child %d has confirmed", request.index)

    def event(self, request: protocol.RelayEvent) -> None:
        session = self._session(request.fork_id, request.index)
        for action in session.receive_event(request.message):
            log.info("child %d: %s", request.index, action)

    def abandon(self, fork_id: bytes) -> None:
        """Erase what no child has confirmed; children that live go on sending their events."""
        fork = self._forks.get(fork_id)
        for index, session in enumerate(fork.sessions if fork else ()):
            if fork and index not in fork.confirmed:
                session.abandon()

    def forget_expired(self) -> None:
        now = time.monotonic()
        for fork in self._forks.values():
            for session in fork.sessions:
                session.expire(now)

    def _admit(self, request: protocol.Capture) -> OwnerToken | None:
        """The owner's token, not yet spent, if the policy asks for one."""
        if not 1 <= request.count <= MAX_CHILDREN:
            raise UsageError(f"a fork has 1 to {MAX_CHILDREN} children, not {request.count}")
        owned = self._me.verifier.policy.fork == "owner"
        token = self._gate.check(request.token, request.count) if owned else None
        now = time.monotonic()
        if sum(fork.is_open(now) for fork in self._forks.values()) >= MAX_OPEN_FORKS:
            raise RefusedByGuest(
                f"{MAX_OPEN_FORKS} captures of this VM have open OFFERs",
                hint="wait until their children have joined or their time is over",
            )
        self._make_room(request.count, now)
        return token

    def _make_room(self, count: int, now: float) -> None:
        """Forget the oldest captures that nobody can join any more."""
        kept = sum(len(fork.sessions) for fork in self._forks.values())
        for fork_id, fork in list(self._forks.items()):
            if kept + count > MAX_KEPT_OFFERS and not fork.is_open(now):
                kept -= len(fork.sessions)
                del self._forks[fork_id]

    def _seal(
        self, serial: str, image_key: bytes, progress: OnProgress
    ) -> tuple[CaptureCost, SealedImage, int]:
        vm_id, generation = self._me.key.instance_id[:_VM_ID_SIZE], self._me.lineage.generation
        with (
            BlockDevice(find_volume(serial), writable=True) as device,
            SealWriter(
                device, image_key=image_key, vm_id=vm_id, generation=generation + 1
            ) as writer,
        ):
            sink = _CountingSink(writer, progress)
            capture = self._engine.capture(sink, sink.enter)
            sink.enter(Step.FLUSH)
            return capture, writer.finish(), sink.written

    def _offer(self, fork_id: bytes, count: int, manifest: Manifest) -> tuple[ParentSession, ...]:
        me, now = self._me, time.monotonic()
        return tuple(
            ParentSession(
                me.identity.launch,
                me.key,
                me.lineage,
                Slot(fork_id, index, me.lineage.generation + 1),
                manifest,
                me.verifier,
                now=now,
                lifetime_s=me.verifier.policy.offer_lifetime_s,
                image_key_lifetime_s=me.verifier.policy.image_key_lifetime_s,
            )
            for index in range(count)
        )

    def _session(self, fork_id: bytes, index: int) -> ParentSession:
        sessions = self._forks[fork_id].sessions if fork_id in self._forks else ()
        if not 0 <= index < len(sessions):
            raise RefusedByGuest(
                "there is no such OFFER", hint="the agent has restarted, or the fork was abandoned"
            )
        return sessions[index]


class _CountingSink:
    """Passes on to the sealed image, and tells the host how far it is."""

    def __init__(self, writer: SealWriter, progress: OnProgress) -> None:
        self._writer, self._progress = writer, progress
        self._step, self._told = Step.CAPTURE, 0
        self.written = 0

    def enter(self, step: Step) -> None:
        self._step = step
        self._progress(step, self.written, 0)

    def write(self, data: bytes) -> int:
        self._writer.write(data)
        self.written += len(data)
        if self.written - self._told >= _REPORT_EVERY_BYTES:
            self._told = self.written
            self._progress(self._step, self.written, 0)
        return len(data)


def sent(actions: Actions) -> bytes:
    """The one message that a step of a handshake sends."""
    messages = [action.message for action in actions if isinstance(action, Send)]
    if len(messages) != 1:
        raise WrongState("the handshake is not at the step that was asked for")
    return messages[0]
