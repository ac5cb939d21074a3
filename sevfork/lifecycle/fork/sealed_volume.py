"""The volume that carries the sealed image: made for one fork, plugged into one guest at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sevfork.domain.disks import disk_xml, free_target, has_target, volume_paths
from sevfork.errors import SevforkError, WrongState
from sevfork.host.hypervisor import Hypervisor, Volume
from sevfork.lifecycle.fork.plan import ForkPlan
from sevfork.lifecycle.undo import Undo

_DETACH_TIMEOUT_S = 30.0


def make_volume(hypervisor: Hypervisor, plan: ForkPlan, undo: Undo) -> Volume:
    """A new volume as the plan says; deleted at the end."""
    undo.best_effort(_delete, hypervisor, plan)
    return hypervisor.storage.create(plan.volume_name, plan.volume_bytes)


def _delete(hypervisor: Hypervisor, plan: ForkPlan) -> None:
    """Not while the parent still has it: its name tells the next command whose it was."""
    storage, name = hypervisor.storage, plan.volume_name
    plugged_in: frozenset[str] = frozenset()
    with contextlib.suppress(WrongState):  # a parent that is gone holds nothing
        plugged_in = volume_paths(hypervisor.xml(plan.spec.uuid))
    if storage.path_of(name) in plugged_in:
        raise WrongState(f"the parent has not let the volume '{name}' go")
    storage.delete(name)


@contextlib.contextmanager
def plugged(
    hypervisor: Hypervisor, uuid: str, volume: Volume, serial: str, *, readonly: bool
) -> Iterator[None]:
    """The volume in a running guest, which finds it by its serial."""
    target = free_target(hypervisor.xml(uuid))
    xml = disk_xml(volume.path, serial, target, readonly=readonly)
    try:
        hypervisor.attach_device(uuid, xml)
        yield
    except BaseException:
        # The first failure is what the user is told; a child is about to be removed anyway.
        with contextlib.suppress(SevforkError):
            _unplug(hypervisor, uuid, xml, target)
        raise
    _unplug(hypervisor, uuid, xml, target)


def _unplug(hypervisor: Hypervisor, uuid: str, xml: str, target: str) -> None:
    if has_target(hypervisor.xml(uuid), target):
        hypervisor.detach_disk(uuid, xml, target, _DETACH_TIMEOUT_S)
