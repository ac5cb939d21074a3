"""A fork of the parent: an OFFER for each child, and the capture of its state on a sealed volume.

The OFFERs come first, so that children are launched, which takes a launch configuration that names
one, and boot while the parent captures. The parent's agent keeps the OFFERs' keys in its memory for
as long as the fork is open. Where the parent keeps a snapshot, the capture is one more layer of it,
in the volume that it has already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from sevfork.errors import NotAuthentic
from sevfork.host.hypervisor import Volume
from sevfork.lifecycle.endorsing import endorse
from sevfork.lifecycle.fork.plan import ForkPlan
from sevfork.lifecycle.fork.sealed_volume import make_volume, plugged, require_room
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.naming import child_names
from sevfork.lifecycle.parent import Parent, parent_of
from sevfork.lifecycle.snapshot.volume import PluggedSnapshot, plugged_snapshot
from sevfork.lifecycle.storage_room import naming_the_pool
from sevfork.lifecycle.undo import Undo
from sevfork.wire import protocol

_POLL_S = 0.5


@dataclass(frozen=True)
class Capture:
    """What children are made from.

    ``shared``: the volume is the snapshot's, which stays plugged into the parent.
    """

    volume: Volume
    serial: str
    shared: bool
    # How long the parent's workload stood still.
    pause_ms: float
    state_bytes: int
    sealed_bytes: int
    # Since the job began.
    ready_s: float


@dataclass(frozen=True)
class OpenFork:
    """What children are launched for: a name and an OFFER for each cold one, in order."""

    plan: ForkPlan
    parent: Parent
    snapshot: PluggedSnapshot | None
    names: tuple[str, ...]
    fork_id: bytes
    offers: tuple[bytes, ...]
    awaited: Future[Capture] = field(default_factory=Future)

    def capture(self, job: Job) -> Capture:
        """Wait for it. Raises Cancelled, also when it fails."""
        while True:
            job.check_cancelled()
            with contextlib.suppress(TimeoutError):
                return self.awaited.result(_POLL_S)

    def captured(self, capture: Capture) -> None:
        self.awaited.set_result(capture)


@contextlib.contextmanager
def opened(job: Job, plan: ForkPlan) -> Iterator[OpenFork]:
    """OFFERs, which the parent forgets at the end."""
    with parent_of(job, plan.spec) as parent, Undo() as undo:
        names = _names(job, plan)
        status = parent.require_ready()
        endorse(job, plan.spec, parent.agent)
        snapshot = plugged_snapshot(job.hypervisor, plan.spec.uuid)
        require_room(job.hypervisor, plan, 0 if snapshot else status.state_bytes)
        request = protocol.Reserve(len(names), warm=False, token=plan.request.token)
        reserved = parent.ask(request, protocol.Reserved)
        undo.best_effort(parent.abandon, reserved.fork_id)
        if len(reserved.offers) != len(names):
            raise NotAuthentic(
                "the parent's agent made another number of OFFERs than was asked for"
            )
        yield OpenFork(plan, parent, snapshot, names, reserved.fork_id, tuple(reserved.offers))


@contextlib.contextmanager
def captured(job: Job, fork: OpenFork) -> Iterator[Capture]:
    """Seal the parent's state, for whoever waits for it; a volume that was made is deleted."""
    hypervisor, plan, snapshot = job.hypervisor, fork.plan, fork.snapshot
    with Undo() as undo:
        if snapshot:
            volume, serial = snapshot.volume, snapshot.serial
            sealed = _seal(fork, serial)
        else:
            volume, serial = make_volume(hypervisor, plan, undo), plan.serial
            with plugged(hypervisor, plan.spec.uuid, volume, serial, readonly=False):
                sealed = _seal(fork, serial)
        job.watch(fork.parent.name, "captured")
        capture = Capture(
            volume=volume,
            serial=serial,
            shared=snapshot is not None,
            pause_ms=sealed.pause_ms,
            state_bytes=sealed.state_bytes,
            sealed_bytes=sealed.sealed_bytes,
            ready_s=job.elapsed_s,
        )
        fork.captured(capture)
        yield capture


def _names(job: Job, plan: ForkPlan) -> tuple[str, ...]:
    """Default names anew: while we waited for the parent, another fork may have taken them."""
    request = plan.request
    if request.name is not None:
        return plan.names
    taken = {domain.name for domain in job.hypervisor.domains()}
    return tuple(child_names(plan.domain.name, None, len(plan.names), taken))


def _seal(fork: OpenFork, serial: str) -> protocol.Captured:
    with naming_the_pool(fork.parent.job.hypervisor):
        return fork.parent.ask(protocol.Capture(fork.fork_id, serial), protocol.Captured)
