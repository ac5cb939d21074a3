"""The child's side inside the guest: one OFFER, one GRANT, one restore.

A child starts no workload and raises no interface before its workload is restored and its
after-fork hooks have passed. Whatever fails once the GRANT is used ends the VM: there is no second
try. Should the agent itself end meanwhile, the marker that it leaves tells the next one to switch
the VM off: nothing of what was restored may run on without its hooks.
"""

from __future__ import annotations

import logging
import time

from sevfork.agent.engine import Engine, Generation
from sevfork.agent.forks import Party, sent
from sevfork.agent.machine import Machine
from sevfork.agent.serve import OnProgress, VmMustEnd
from sevfork.agent.unexpected import place_of
from sevfork.agent.volume import find_volume
from sevfork.errors import SevforkError
from sevfork.handshake import ChildSession, EventKind, Lineage, NeedEvidence, ReleaseState
from sevfork.seal import NO_BASE, BlockDevice, SealReader
from sevfork.wire import protocol

log = logging.getLogger(__name__)

_REPORT_EVERY_BYTES = 4 * 2**20
_UNIQUE_ID_SIZE = 16


class Child:
    """Joins, restores, and then is a VM like its parent."""

    def __init__(self, me: Party, engine: Engine, machine: Machine) -> None:
        self._me, self._engine, self._machine = me, engine, machine
        self._session = ChildSession(me.identity.launch, me.key, me.verifier)
        self.lineage: Lineage | None = None

    def offer(self, request: protocol.RelayOffer) -> protocol.Joining:
        """The JOIN for the OFFER that this VM was launched for, and for no other."""
        actions = self._session.receive_offer(request.offer)
        for action in actions:
            if isinstance(action, NeedEvidence):
                evidence = self._me.provider.evidence(action.report_data).encode()
                actions = self._session.provide_evidence(evidence)
        return protocol.Joining(sent(actions))

    def restore(self, request: protocol.Restore, progress: OnProgress) -> protocol.Restored:
        """Use the GRANT: unseal, restore, run the hooks, raise the network.

        A GRANT that does not verify is refused and another may come. Raises VmMustEnd for
        everything after that.
        """
        (released,) = self._session.receive_grant(request.grant)
        if not isinstance(released, ReleaseState):
            raise TypeError("a GRANT releases state or is refused")
        started = time.monotonic()
        try:
            self._machine.restoring.touch()
            self._unseal(released, request.volume_serial, progress)
            progress(protocol.Step.RESTORE, 0, 0)
            self._engine.resume(Generation(released.generation, self._unique_id()))
            self._machine.raise_network()
            self._machine.restoring.unlink()
        except SevforkError as exc:
            raise VmMustEnd(exc) from exc
        except Exception as exc:
            log.error("the restore failed unexpectedly: %s", place_of(exc))
            raise VmMustEnd(SevforkError("the restore failed unexpectedly")) from exc
        self.lineage = released.lineage
        return self._restored(released, (time.monotonic() - started) * 1000)

    def _unique_id(self) -> bytes:
        return self._me.key.instance_id[:_UNIQUE_ID_SIZE]

    def _unseal(self, released: ReleaseState, serial: str, progress: OnProgress) -> None:
        """Nothing of what was unsealed runs before every layer has verified to its end."""
        base = NO_BASE
        with BlockDevice(find_volume(serial)) as device:
            for layer in released.manifest.layers:
                with SealReader(
                    device,
                    image_key=layer.image_key,
                    header_digest=layer.header_digest,
                    chunk_count=layer.chunk_count,
                    base_digest=base,
                ) as reader:
                    self._engine.unpack(_CountingSource(reader, layer.chunk_count, progress))
                    reader.drain()
                base = layer.header_digest

    def _restored(self, released: ReleaseState, restore_ms: float) -> protocol.Restored:
        confirm = self._session.confirm()
        kinds = (EventKind.RESTORED, EventKind.HOOKS_PASSED)
        events = [self._session.event(kind) for kind in kinds]
        log.info("restored generation %d in %.0f ms", released.generation, restore_ms)
        return protocol.Restored(confirm, events, released.generation, restore_ms)


class _CountingSource:
    """Reads from the sealed image, and tells the host how far it is."""

    def __init__(self, reader: SealReader, chunk_count: int, progress: OnProgress) -> None:
        self._reader, self._progress = reader, progress
        self._total = chunk_count * 2**20
        self._done = self._told = 0

    def read(self, size: int) -> bytes:
        data = self._reader.read(size)
        self._done += len(data)
        if self._done - self._told >= _REPORT_EVERY_BYTES:
            self._told = self._done
            self._progress(protocol.Step.UNSEAL, self._done, self._total)
        return data
