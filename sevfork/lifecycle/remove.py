"""``sevfork rm``: a VM and everything that sevfork made for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sevfork.domain import metadata_xml
from sevfork.domain.spec import GuestSpec
from sevfork.errors import ChildLeftBehind, SevforkError, WrongState
from sevfork.host import image_volumes
from sevfork.host.hypervisor import Domain, Hypervisor
from sevfork.lifecycle.progress import Watcher, unwatched

log = logging.getLogger(__name__)


def plan_remove(hypervisor: Hypervisor, references: Sequence[str]) -> tuple[Domain, ...]:
    """The VMs that are meant, each once; raises WrongState before anything is touched.

    Children outlive their parent: removing it takes nothing from them.
    """
    found = {each.uuid: each for each in map(hypervisor.find, references)}
    for domain in found.values():
        if domain.metadata_xml is None:
            raise WrongState(
                f"'{domain.name}' was not made by sevfork",
                hint=f"virsh --connect '{hypervisor.uri}' undefine '{domain.name}'",
            )
    return tuple(found.values())


def remove(hypervisor: Hypervisor, domains: Sequence[Domain], watch: Watcher = unwatched) -> None:
    """Remove them, and images that no VM boots any more."""
    for domain in domains:
        watch(domain.name, "removing")
        remove_domain(hypervisor, domain)
        watch(domain.name, "removed")
    image_volumes.delete_unused(hypervisor)


def remove_domain(hypervisor: Hypervisor, domain: Domain) -> None:
    """End it, delete its volumes, forget it. May be repeated."""
    _remove(hypervisor, domain.uuid, _volumes(domain))


def _volumes(domain: Domain) -> tuple[str, ...]:
    try:
        return metadata_xml.read(domain.metadata_xml or "").volumes
    except WrongState as exc:
        log.warning("volumes of '%s' may be left: %s", domain.name, exc.message)
        return ()


def remove_made(hypervisor: Hypervisor, spec: GuestSpec) -> None:
    """Undo the making of a VM; raises ChildLeftBehind when that fails."""
    try:
        _remove(hypervisor, spec.uuid, spec.metadata.volumes)
    except SevforkError as exc:
        raise ChildLeftBehind(
            f"'{spec.name}' could not be removed again: {exc.message}",
            hint=f"sevfork rm '{spec.name}'",
        ) from exc


def _remove(hypervisor: Hypervisor, uuid: str, volumes: Sequence[str]) -> None:
    hypervisor.destroy(uuid)
    for volume in volumes:
        hypervisor.storage.delete(volume)
    # Last: as long as it is defined, what is left can be found.
    hypervisor.undefine(uuid)
