"""The volume that holds a VM's snapshot: made, plugged into the VM, named in its metadata."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sevfork.domain import metadata_xml
from sevfork.domain.disks import disk_xml, disks, free_target
from sevfork.domain.metadata import Metadata, SnapshotVolume
from sevfork.domain.spec import GuestSpec
from sevfork.errors import WrongState
from sevfork.host.hypervisor import Hypervisor, Volume
from sevfork.lifecycle.undo import Undo
from sevfork.wire.volume_serial import new_serial

_UNPLUG_TIMEOUT_S = 30.0
_SUFFIX = ".snapshot"
# In sizes of the guest's memory: a base that is begun anew lies behind the one that it replaces,
# and the updates of both. It is sparse: only what is written takes room.
_MEMORIES = 4
_SLACK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class PluggedSnapshot:
    """A snapshot's volume, and what the guests that have it know it by."""

    volume: Volume
    serial: str


def plugged_snapshot(hypervisor: Hypervisor, uuid: str) -> PluggedSnapshot | None:
    """The snapshot's volume as it is plugged into the running VM; None where none is."""
    xml = hypervisor.xml(uuid)
    metadata = metadata_xml.from_domain(xml)
    if metadata is None or metadata.snapshot is None:
        return None
    volume = hypervisor.storage.find(metadata.snapshot.name)
    if volume is None or volume.path not in {disk.path for disk in disks(xml)}:
        return None
    return PluggedSnapshot(volume, metadata.snapshot.serial)


def plug_new(hypervisor: Hypervisor, spec: GuestSpec) -> PluggedSnapshot:
    """A new volume in place of what the VM had; what is made is undone when something fails."""
    serial = new_serial()
    name = f"{serial}{_SUFFIX}"
    former = _metadata(hypervisor, spec.uuid)
    with Undo() as undo:
        undo.on_failure(_write, hypervisor, spec.uuid, former)
        # Named before it is made, so that ``rm`` finds it whatever happens.
        volumes = (*former.volumes, name)
        metadata = replace(former, volumes=volumes, snapshot=SnapshotVolume(name, serial))
        _write(hypervisor, spec.uuid, metadata)
        undo.on_failure(hypervisor.storage.delete, name)
        size_bytes = _MEMORIES * spec.memory_mib * 2**20 + _SLACK_BYTES
        volume = hypervisor.storage.create(name, size_bytes)
        snapshot = PluggedSnapshot(volume, serial)
        undo.on_failure(unplug, hypervisor, spec.uuid, volume.path)
        plug(hypervisor, spec.uuid, snapshot, readonly=False)
    delete_former(hypervisor, spec.uuid)
    return snapshot


def plug(hypervisor: Hypervisor, uuid: str, snapshot: PluggedSnapshot, *, readonly: bool) -> None:
    """Give one more running VM the snapshot's volume: its owner to write, a warm child to read."""
    target = free_target(hypervisor.xml(uuid))
    path, serial = snapshot.volume.path, snapshot.serial
    xml = disk_xml(path, serial, target, readonly=readonly, shared=True)
    hypervisor.attach_device(uuid, xml)


def delete_former(hypervisor: Hypervisor, uuid: str) -> tuple[str, ...]:
    """Take away all of the VM's snapshot volumes but the one that it keeps now; their names.

    Whoever calls this holds the VM's channel: what is left over is a killed command's then.
    """
    metadata = _metadata(hypervisor, uuid)
    kept = metadata.snapshot.name if metadata.snapshot else None
    former = tuple(name for name in metadata.volumes if name.endswith(_SUFFIX) and name != kept)
    for name in former:
        unplug(hypervisor, uuid, hypervisor.storage.path_of(name))
        hypervisor.storage.delete(name)
    if former:
        left = tuple(name for name in metadata.volumes if name not in former)
        _write(hypervisor, uuid, replace(metadata, volumes=left))
    return former


def delete_all(hypervisor: Hypervisor, uuid: str) -> tuple[str, ...]:
    """The VM keeps no snapshot any more; the names of the volumes that it had."""
    _write(hypervisor, uuid, replace(_metadata(hypervisor, uuid), snapshot=None))
    return delete_former(hypervisor, uuid)


def unplug(hypervisor: Hypervisor, uuid: str, path: str) -> None:
    """Take the disk that is this file out of a running VM; nothing happens where it is not in."""
    for disk in disks(hypervisor.xml(uuid)):
        if disk.path == path:
            hypervisor.detach_disk(uuid, disk.xml, disk.target, _UNPLUG_TIMEOUT_S)


def _metadata(hypervisor: Hypervisor, uuid: str) -> Metadata:
    metadata = metadata_xml.from_domain(hypervisor.xml(uuid))
    if metadata is None:
        raise WrongState("the VM has lost sevfork's metadata")
    return metadata


def _write(hypervisor: Hypervisor, uuid: str, metadata: Metadata) -> None:
    hypervisor.set_metadata(uuid, metadata_xml.write(metadata))
