"""A capture of the parent: its state on a sealed volume, and an OFFER for each child.

The parent's agent keeps the OFFERs' keys in its memory for as long as the capture is open. Where
the parent keeps a snapshot, the capture is one more layer of it, in the volume that it has already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from sevfork.errors import NotAuthentic
from sevfork.host.hypervisor import Volume
from sevfork.lifecycle.fork.plan import ForkPlan
from sevfork.lifecycle.fork.sealed_volume import make_volume, plugged, require_room
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.naming import child_names
from sevfork.lifecycle.parent import Parent, parent_of
from sevfork.lifecycle.snapshot.volume import plugged_snapshot
from sevfork.lifecycle.storage_room import naming_the_pool
from sevfork.lifecycle.undo import Undo
from sevfork.wire import protocol


@dataclass(frozen=True)
class OpenCapture:
    """What children are made from. ``names`` and ``offers`` have one for each cold child, in order.

    ``shared``: the volume is the snapshot's, which stays plugged into the parent.
    """

    plan: ForkPlan
    parent: Parent
    names: tuple[str, ...]
    volume: Volume
    serial: str
    shared: bool
    fork_id: bytes
    offers: tuple[bytes, ...]
    # How long the parent's workload stood still.
    pause_ms: float
    state_bytes: int
    sealed_bytes: int
    # Since the job began.
    ready_s: float


@contextlib.contextmanager
def captured(job: Job, plan: ForkPlan) -> Iterator[OpenCapture]:
    """Seal the parent's state; at the end a volume that was made is deleted, OFFERs forgotten."""
    with parent_of(job, plan.spec) as parent, Undo() as undo:
        names = _names(job, plan)
        status = parent.require_ready()
        snapshot = plugged_snapshot(job.hypervisor, plan.spec.uuid)
        require_room(job.hypervisor, plan, 0 if snapshot else status.state_bytes)
        if snapshot:
            volume, serial = snapshot.volume, snapshot.serial
            sealed = _seal(plan, parent, serial, undo)
        else:
            volume, serial = make_volume(job.hypervisor, plan, undo), plan.serial
            with plugged(job.hypervisor, plan.spec.uuid, volume, serial, readonly=False):
                sealed = _seal(plan, parent, serial, undo)
        job.watch(parent.name, "captured")
        yield OpenCapture(
            plan=plan,
            parent=parent,
            names=names,
            volume=volume,
            serial=serial,
            shared=snapshot is not None,
            fork_id=sealed.fork_id,
            offers=tuple(sealed.offers),
            pause_ms=sealed.pause_ms,
            state_bytes=sealed.state_bytes,
            sealed_bytes=sealed.sealed_bytes,
            ready_s=job.elapsed_s,
        )


def _names(job: Job, plan: ForkPlan) -> tuple[str, ...]:
    """Default names anew: while we waited for the parent, another fork may have taken them."""
    request = plan.request
    if request.name is not None:
        return plan.names
    taken = {domain.name for domain in job.hypervisor.domains()}
    return tuple(child_names(plan.domain.name, None, len(plan.names), taken))


def _seal(plan: ForkPlan, parent: Parent, serial: str, undo: Undo) -> protocol.Captured:
    count = len(plan.names)
    request = protocol.Capture(count, serial, plan.request.token)
    with naming_the_pool(parent.job.hypervisor):
        sealed = parent.ask(request, protocol.Captured)
    undo.best_effort(parent.abandon, sealed.fork_id)
    if len(sealed.offers) != count:
        raise NotAuthentic("the parent's agent made another number of OFFERs than was asked for")
    return sealed
