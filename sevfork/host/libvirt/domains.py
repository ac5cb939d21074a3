"""libvirt's domain objects: found, and taken down as data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import libvirt

from sevfork.domain.metadata_xml import FORMER_NAMESPACE, NAMESPACE, PREFIX
from sevfork.host import hypervisor as hv
from sevfork.host.libvirt.errors import has_code, ignoring

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: hv.DomainState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: hv.DomainState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: hv.DomainState.SHUTTING_DOWN,
    libvirt.VIR_DOMAIN_PAUSED: hv.DomainState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: hv.DomainState.SUSPENDED,
    libvirt.VIR_DOMAIN_CRASHED: hv.DomainState.CRASHED,
}


def lookups(connection: Any, reference: str) -> Iterator[Any]:
    """The domains that a name, UUID or id may mean, in this order."""
    yield _none_if_missing(connection.lookupByName, reference)
    if re.fullmatch(r"[0-9a-fA-F-]{32,36}", reference):
        yield _none_if_missing(connection.lookupByUUIDString, reference)
    if re.fullmatch(r"[0-9]{1,9}", reference):
        yield _none_if_missing(connection.lookupByID, int(reference))


def _none_if_missing(lookup: Callable[[Any], Any], key: object) -> Any:
    try:
        return lookup(key)
    except libvirt.libvirtError as exc:
        if has_code(exc, libvirt.VIR_ERR_NO_DOMAIN):
            return None
        raise


def snapshot(domain: Any) -> hv.Domain | None:
    """A domain as data, or None if it went away meanwhile."""
    try:
        state, memory_kib, _, vcpus, _ = domain.info()
        return hv.Domain(
            name=domain.name(),
            uuid=domain.UUIDString(),
            id=domain.ID() if domain.ID() >= 0 else None,
            state=_STATES.get(state, hv.DomainState.SHUT_OFF),
            memory_mib=memory_kib // 1024,
            vcpus=vcpus,
            metadata_xml=_metadata(domain),
        )
    except libvirt.libvirtError as exc:
        if has_code(exc, libvirt.VIR_ERR_NO_DOMAIN):
            return None
        raise


def _metadata(domain: Any) -> str | None:
    for namespace in (NAMESPACE, FORMER_NAMESPACE):
        with ignoring(libvirt.VIR_ERR_NO_DOMAIN_METADATA):
            return str(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, namespace, 0))
    return None


def set_metadata(domain: Any, element: str) -> None:
    flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG
    if domain.isActive():
        flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
    kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
    domain.setMetadata(kind, None, None, FORMER_NAMESPACE, flags)
    domain.setMetadata(kind, element, PREFIX, NAMESPACE, flags)
