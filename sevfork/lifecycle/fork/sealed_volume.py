"""The volume that carries the sealed image: made for one fork, plugged into one guest at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sevfork.domain.disks import disk_xml, free_target, has_target, volume_paths
from sevfork.errors import HostCannot, SevforkError, TimedOut, WrongState
from sevfork.host.hypervisor import DomainState, Hypervisor, Volume
from sevfork.lifecycle.agents import PAUSE_S
from sevfork.lifecycle.find import cannot
from sevfork.lifecycle.fork.plan import ForkPlan
from sevfork.lifecycle.storage_room import room_in
from sevfork.lifecycle.undo import Undo

_DETACH_TIMEOUT_S = 30.0
# The header, a last chunk that is never full, CRIU's own images.
_LEAST_BYTES = 32 * 2**20


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


def require_room(hypervisor: Hypervisor, plan: ForkPlan, state_bytes: int) -> None:
    """Raise HostCannot where the pool has no room for what the capture may write.

    What changes while it is copied is written twice: a quarter is allowed for that.
    """
    needed = min(state_bytes * 5 // 4 + _LEAST_BYTES, plan.volume_bytes)
    if hypervisor.storage.free_bytes() < needed:
        raise HostCannot(
            f"{room_in(hypervisor)}; the capture may need {needed / 2**20:.0f} MiB",
            hint="make room there, and fork again",
        )


@contextlib.contextmanager
def plugged(
    hypervisor: Hypervisor,
    uuid: str,
    volume: Volume,
    serial: str,
    *,
    readonly: bool,
    shared: bool = False,
) -> Iterator[None]:
    """The volume in a running guest, which finds it by its serial."""
    target = free_target(hypervisor.xml(uuid))
    xml = disk_xml(volume.path, serial, target, readonly=readonly, shared=shared)
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
    """Raises WrongState where the guest stands still: it lets go when it runs again."""
    if not has_target(hypervisor.xml(uuid), target):
        return
    runs = hypervisor.find(uuid).state is DomainState.RUNNING
    try:
        hypervisor.detach_disk(uuid, xml, target, _DETACH_TIMEOUT_S if runs else PAUSE_S)
    except TimedOut as exc:
        domain = hypervisor.find(uuid)
        if domain.state is DomainState.RUNNING:
            raise
        raise cannot(hypervisor, domain, "it cannot let the sealed volume go") from exc
