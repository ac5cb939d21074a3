"""What killed commands left behind: half-made VMs, volumes that no VM will ever use.

Every command begins with this. It touches only what a process on this machine made that certainly
lives no more: another machine's commands, and other processes here, may be at work.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from sevfork.domain import metadata_xml
from sevfork.domain.disks import Disk, disks
from sevfork.domain.metadata import Phase
from sevfork.errors import SevforkError, WrongState
from sevfork.host import image_volumes, maker
from sevfork.host.hypervisor import Domain, DomainState, Hypervisor, Volume
from sevfork.lifecycle.find import cannot
from sevfork.lifecycle.remove import remove_domain

log = logging.getLogger(__name__)

_UNPLUG_TIMEOUT_S = 10.0


def reap(hypervisor: Hypervisor, note: Callable[[str], None]) -> None:
    """Remove what is left of dead commands; ``note`` hears of each thing removed.

    What cannot be removed now is said and left to the next command: a parent that does not answer
    must not keep anybody from listing VMs, or from removing that parent.
    """
    dead = [each for each in hypervisor.domains() if is_abandoned(each)]
    for domain in dead:
        with _going_on(f"'{domain.name}'", note):
            note(f"removing '{domain.name}': the command that made it was killed")
            remove_domain(hypervisor, domain)
    stray = [each for each in hypervisor.storage.volumes() if maker.tagged_by_the_dead(each.name)]
    for volume in stray:
        with _going_on(f"volume '{volume.name}'", note):
            _unplug(hypervisor, volume)
            note(f"deleting volume '{volume.name}': the command that made it has ended")
            hypervisor.storage.delete(volume.name)
    if dead or stray:
        with _going_on("images that no VM boots", note):
            image_volumes.delete_unused(hypervisor)


@contextlib.contextmanager
def _going_on(what: str, note: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except SevforkError as exc:
        note(f"warning: {what} could not be cleaned up: {exc.message}")


def _unplug(hypervisor: Hypervisor, volume: Volume) -> None:
    """Take a dead fork's sealed volume out of the parent that it was killed in the middle of.

    The parent's agent notices that its host has gone, and lets its workload run on by itself. A
    parent that stands still is not waited for; raises WrongState.
    """
    for domain in hypervisor.domains():
        for disk in _disks(hypervisor, domain):
            if disk.path != volume.path:
                continue
            if domain.state is not DomainState.RUNNING:
                raise cannot(hypervisor, domain, "it keeps the volume until it runs again")
            hypervisor.detach_disk(domain.uuid, disk.xml, disk.target, _UNPLUG_TIMEOUT_S)


def _disks(hypervisor: Hypervisor, domain: Domain) -> tuple[Disk, ...]:
    with contextlib.suppress(WrongState):  # it went away meanwhile
        return disks(hypervisor.xml(domain.uuid))
    return ()


def is_abandoned(domain: Domain) -> bool:
    """Whether a VM is half made, or waits in a pool, and its maker is dead.

    What cannot be read is left alone.
    """
    if domain.metadata_xml is None:
        return False
    try:
        metadata = metadata_xml.read(domain.metadata_xml)
    except WrongState as exc:
        log.warning("'%s': %s", domain.name, exc.message)
        return False
    unfinished = metadata.phase is not Phase.READY
    return unfinished and metadata.maker is not None and maker.is_dead(metadata.maker)
