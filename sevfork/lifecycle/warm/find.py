"""The warm children of a VM, and what stands of them in their metadata."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from sevfork.domain import metadata_xml
from sevfork.domain.metadata import Metadata, Phase, Warmth
from sevfork.errors import WrongState
from sevfork.host import maker
from sevfork.host.hypervisor import Domain, DomainState, Hypervisor


@dataclass(frozen=True)
class WarmVm:
    """A warm child, as it was when it was looked at."""

    domain: Domain
    metadata: Metadata
    warmth: Warmth

    @property
    def is_stale(self) -> bool:
        return time.time() > self.warmth.stale

    @property
    def fork_id(self) -> bytes:
        """Of its reservation: with ``index`` the place that its OFFER is for."""
        return bytes.fromhex(self.metadata.fork_id or "")

    @property
    def index(self) -> int:
        return self.metadata.index or 0


def warm_children(hypervisor: Hypervisor, parent_uuid: str) -> tuple[WarmVm, ...]:
    """Those of this parent that run, in the order of their names; not those of a dead pool."""
    return tuple(sorted(_warm(hypervisor, parent_uuid), key=lambda each: each.domain.name))


def _warm(hypervisor: Hypervisor, parent_uuid: str) -> Iterator[WarmVm]:
    for domain in hypervisor.domains():
        found = as_warm(domain)
        if found is not None and found.metadata.parent == parent_uuid:
            yield found


def as_warm(domain: Domain) -> WarmVm | None:
    """The domain as a warm child that runs, None for every other."""
    if domain.metadata_xml is None or domain.state is not DomainState.RUNNING:
        return None
    try:
        metadata = metadata_xml.read(domain.metadata_xml)
    except WrongState:
        return None  # `sevfork ls` says what is wrong with it
    if metadata.phase is not Phase.WARM or metadata.warmth is None:
        return None
    if metadata.maker is None or maker.is_dead(metadata.maker):
        return None
    return WarmVm(domain, metadata, metadata.warmth)
