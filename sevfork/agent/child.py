"""The child's side inside the guest: one OFFER, one GRANT, one restore.

A child starts no workload and raises no interface before its workload is restored and its
after-fork hooks have passed. A warm child is granted the snapshot first and holds it, unsealed, in
its own memory; it runs nothing of it before a fork has called it. Whatever fails once a GRANT is
used ends the VM: there is no second try. Should the agent itself end meanwhile, the marker that it
leaves tells the next one to switch the VM off: nothing of what was unsealed may run on without the
hooks, and nothing of it may lie about.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sevfork.agent.engine import Engine, Generation
from sevfork.agent.forks import Party, sent
from sevfork.agent.life import Life
from sevfork.agent.machine import Machine
from sevfork.agent.serve import OnProgress, VmMustEnd
from sevfork.agent.unexpected import place_of
from sevfork.agent.unsealed import Unsealed
from sevfork.errors import SevforkError, WrongState
from sevfork.handshake import (
    Actions,
    ChildSession,
    HoldState,
    Lineage,
    NeedEvidence,
    ReleaseState,
)
from sevfork.wire import protocol
from sevfork.wire.protocol import LifeEvent

log = logging.getLogger(__name__)

_UNIQUE_ID_SIZE = 16

ChildRequest = (
    protocol.RelayOffer
    | protocol.Hold
    | protocol.Absorb
    | protocol.RelayCall
    | protocol.Restore
    | protocol.Activate
)


class Child:
    """Joins, restores, and then is a VM like its parent."""

    def __init__(self, me: Party, engine: Engine, machine: Machine) -> None:
        self._me, self._engine, self._machine = me, engine, machine
        self._session = ChildSession(me.identity.launch, me.key, me.verifier)
        self._unsealed = Unsealed(engine)
        self.life = Life(self._session)
        self.lineage: Lineage | None = None

    def handle(self, request: ChildRequest, progress: OnProgress) -> protocol.Reply:
        """The reply. Raises VmMustEnd for what fails once a GRANT is used."""
        match request:
            case protocol.RelayOffer():
                return self.offer(request)
            case protocol.Hold():
                return self.hold(request, progress)
            case protocol.Absorb():
                return self.absorb(request, progress)
            case protocol.RelayCall():
                return protocol.Answering(self._signed(self._session.receive_call(request.call)))
            case protocol.Restore():
                return self.restore(request, progress)
            case protocol.Activate():
                return self.activate(request, progress)

    def offer(self, request: protocol.RelayOffer) -> protocol.Joining:
        """The JOIN for the OFFER that this VM was launched for, and for no other."""
        return protocol.Joining(self._signed(self._session.receive_offer(request.offer)))

    def restore(self, request: protocol.Restore, progress: OnProgress) -> protocol.Restored:
        """Use the GRANT: unseal, restore, run the hooks, raise the network.

        A GRANT that does not verify is refused and another may come. Raises VmMustEnd for
        everything after that.
        """
        (released,) = self._session.receive_grant(request.grant)
        return self._restore(_release(released), request.volume_serial, progress)

    def hold(self, request: protocol.Hold, progress: OnProgress) -> protocol.Held:
        """Use a warm GRANT: unseal what the snapshot holds now."""
        (held,) = self._session.receive_grant(request.grant)
        with self._or_end():
            self._machine.restoring.touch()
            self._take(_holding(held), request.volume_serial, progress)
            return protocol.Held(self._session.confirm(), self._unsealed.size_bytes)

    def absorb(self, request: protocol.Absorb, progress: OnProgress) -> protocol.Held:
        """Unseal what has come to the snapshot since."""
        (held,) = self._session.receive_update(request.update)
        with self._or_end():
            self._take(_holding(held), request.volume_serial, progress)
        return protocol.Held(b"", self._unsealed.size_bytes)

    def activate(self, request: protocol.Activate, progress: OnProgress) -> protocol.Restored:
        """Unseal the fork's own layer, and go on as ``restore`` does."""
        (released,) = self._session.receive_activate(request.activate)
        return self._restore(_release(released), request.volume_serial, progress)

    def _signed(self, actions: Actions) -> bytes:
        for action in actions:
            if isinstance(action, NeedEvidence):
                evidence = self._me.provider.evidence(action.report_data).encode()
                actions = self._session.provide_evidence(evidence)
        return sent(actions)

    def _take(self, held: HoldState, serial: str, progress: OnProgress) -> None:
        self._unsealed.take(held.manifest, serial, progress)
        self._engine.settle()

    def _restore(
        self, released: ReleaseState, serial: str, progress: OnProgress
    ) -> protocol.Restored:
        started = time.monotonic()
        with self._or_end():
            self._machine.restoring.touch()
            self._unsealed.take(released.manifest, serial, progress)
            progress(protocol.Step.RESTORE, 0, 0)
            self._engine.resume(Generation(released.generation, self._unique_id()))
            self._machine.raise_network()
            self._machine.restoring.unlink()
        self.lineage = released.lineage
        return self._restored(released, (time.monotonic() - started) * 1000)

    @contextmanager
    def _or_end(self) -> Iterator[None]:
        """What fails in here is the end of this VM."""
        try:
            yield
        except SevforkError as exc:
            raise VmMustEnd(exc) from exc
        except Exception as exc:
            log.error("the restore failed unexpectedly: %s", place_of(exc))
            raise VmMustEnd(SevforkError("the restore failed unexpectedly")) from exc

    def _unique_id(self) -> bytes:
        return self._me.key.instance_id[:_UNIQUE_ID_SIZE]

    def _restored(self, released: ReleaseState, restore_ms: float) -> protocol.Restored:
        confirm = self._session.confirm()
        events = [self.life.note(event) for event in (LifeEvent.RESTORED, LifeEvent.READY)]
        log.info("restored generation %d in %.0f ms", released.generation, restore_ms)
        return protocol.Restored(confirm, events, released.generation, restore_ms)


def _release(action: object) -> ReleaseState:
    """Raise WrongState for a GRANT that was made for a warm child: it is not to run yet."""
    if not isinstance(action, ReleaseState):
        raise WrongState("this GRANT is a warm child's, which holds and does not restore")
    return action


def _holding(action: object) -> HoldState:
    """Raise WrongState for a GRANT that is not for a warm child."""
    if not isinstance(action, HoldState):
        raise WrongState("this GRANT is to be restored, not to be held")
    return action
