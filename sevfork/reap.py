"""What killed commands left behind: half-made VMs, volumes that no VM will ever use.

Every command begins with this. It touches only what a process on this machine made that certainly
lives no more: another machine's commands, and other processes here, may be at work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from sevfork.errors import WrongState
from sevfork.host import images, maker
from sevfork.host.hypervisor import Domain, Hypervisor
from sevfork.metadata import Metadata, Phase
from sevfork.remove import remove_domain

log = logging.getLogger(__name__)


def reap(hypervisor: Hypervisor, note: Callable[[str], None]) -> None:
    """Remove what is left of dead commands; ``note`` hears of each thing removed."""
    dead = [each for each in hypervisor.domains() if is_abandoned(each)]
    for domain in dead:
        note(f"removing '{domain.name}': the command that made it was killed")
        remove_domain(hypervisor, domain)
    stray = [each for each in hypervisor.storage.volumes() if maker.tagged_by_the_dead(each.name)]
    if stray:
        used = images.paths_in_use(hypervisor)
        for volume in stray:
            if volume.path not in used:
                note(f"deleting volume '{volume.name}': the command that made it was killed")
                hypervisor.storage.delete(volume.name)
    if dead or stray:
        images.delete_unused(hypervisor)


def is_abandoned(domain: Domain) -> bool:
    """Whether a VM is half made and its maker dead; what cannot be read is left alone."""
    if domain.metadata_xml is None:
        return False
    try:
        metadata = Metadata.from_xml(domain.metadata_xml)
    except WrongState as exc:
        log.warning("'%s': %s", domain.name, exc.message)
        return False
    forming = metadata.phase is Phase.FORMING
    return forming and metadata.maker is not None and maker.is_dead(metadata.maker)
