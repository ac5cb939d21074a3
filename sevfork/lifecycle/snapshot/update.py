"""``sevfork snapshot``: begin a VM's snapshot, and bring it up to date."""

from __future__ import annotations

from dataclasses import dataclass

from sevfork.domain.spec import GuestSpec
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.parent import Parent, parent_of
from sevfork.lifecycle.snapshot.volume import (
    PluggedSnapshot,
    delete_all,
    delete_former,
    plug_new,
    plugged_snapshot,
)
from sevfork.lifecycle.storage_room import naming_the_pool
from sevfork.wire import protocol


@dataclass(frozen=True)
class Snapshot:
    """A snapshot as it stands, and how its update went.

    ``tidied``: volumes that a killed command had left plugged in.
    """

    plugged: PluggedSnapshot
    made: protocol.SnapshotMade
    tidied: tuple[str, ...]

    @property
    def notes(self) -> list[str]:
        """What a person would want to know of it."""
        return [
            f"deleted the volume '{name}': the command that took it out of use was killed"
            for name in self.tidied
        ]


def update_snapshot(job: Job, spec: GuestSpec) -> Snapshot:
    """One update, or the snapshot's beginning; the VM runs on, whatever happens."""
    with parent_of(job, spec) as parent:
        parent.require_ready()
        return update_of(parent, spec)


def update_of(parent: Parent, spec: GuestSpec) -> Snapshot:
    """The same, by a channel that is open."""
    hypervisor = parent.job.hypervisor
    tidied = delete_former(hypervisor, spec.uuid)
    plugged = plugged_snapshot(hypervisor, spec.uuid) or plug_new(hypervisor, spec)
    made = _update(parent, plugged)
    if made.free_bytes < spec.memory_mib * 2**20:
        # The next base would not fit: begin it now, in a volume of its own.
        plugged = plug_new(hypervisor, spec)
        made = _update(parent, plugged)
    return Snapshot(plugged, made, tidied)


def drop_snapshot(job: Job, spec: GuestSpec) -> bool:
    """End it: keys, tracking, volume; whether there was one. Warm children go with their pool."""
    with parent_of(job, spec) as parent:
        parent.ask(protocol.DropSnapshot(), protocol.Done)
        return bool(delete_all(job.hypervisor, spec.uuid))


def _update(parent: Parent, plugged: PluggedSnapshot) -> protocol.SnapshotMade:
    with naming_the_pool(parent.job.hypervisor):
        return parent.ask(protocol.UpdateSnapshot(plugged.serial), protocol.SnapshotMade)
