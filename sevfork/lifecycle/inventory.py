"""``sevfork ls``: the VMs that sevfork made, and who descends from whom."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from sevfork.domain import metadata_xml
from sevfork.domain.metadata import Metadata, Phase
from sevfork.errors import WrongState
from sevfork.host.hypervisor import Domain
from sevfork.wire.protocol import status_and_signal


@dataclass(frozen=True)
class Vm:
    """One VM; ``metadata`` is None where it cannot be read, and ``unreadable`` says why."""

    domain: Domain
    metadata: Metadata | None
    unreadable: str | None = None
    has_ended: bool = False  # its workload, as its agent says: ``metadata.ended`` is how, if known

    @property
    def state(self) -> str:
        """libvirt's state, or that the VM is still being made, or waits in a pool."""
        phase = self.metadata.phase if self.metadata else Phase.READY
        if phase is not Phase.READY and self.domain.state.active:
            return str(phase.value)
        return self.domain.state.value

    @property
    def ports(self) -> tuple[dict[str, object], ...]:
        """Published ports, where they are reachable; none once the guest has ended."""
        if self.metadata is None or not self.domain.state.active:
            return ()
        return port_documents(self.metadata)


@dataclass(frozen=True)
class Branch:
    """A VM and those forked from it."""

    vm: Vm
    children: tuple[Branch, ...]


def port_documents(metadata: Metadata) -> tuple[dict[str, object], ...]:
    """The JSON form: ``address`` on the libvirt host, ``guest`` port."""
    return tuple(
        {
            "address": f"{port.address}:{port.host}",
            "host": port.host,
            "guest": port.guest,
            "transport": port.transport.value,
        }
        for port in metadata.ports
    )


def vms(domains: Iterable[Domain]) -> tuple[Vm, ...]:
    """sevfork's own among the domains, by name; parents by the name that they have now."""
    known = tuple(domains)
    names = {domain.uuid: domain.name for domain in known}
    mine = (_vm(domain, names) for domain in known if domain.metadata_xml is not None)
    return tuple(sorted(mine, key=lambda vm: vm.domain.name))


def _vm(domain: Domain, names: Mapping[str, str]) -> Vm:
    try:
        metadata = metadata_xml.read(domain.metadata_xml or "")
    except WrongState as exc:
        return Vm(domain, None, exc.message)
    parent_name = names.get(metadata.parent or "", metadata.parent_name)
    return Vm(domain, replace(metadata, parent_name=parent_name))


def forest(listed: Iterable[Vm]) -> tuple[Branch, ...]:
    """The trees of descent. A VM whose parent is gone stands at the top of its own.

    Metadata is the host's to write: a circle in it must not hang us, so every VM is shown once.
    """
    by_uuid = {vm.domain.uuid: vm for vm in listed}
    seen: set[str] = set()
    roots = [vm for vm in by_uuid.values() if _parent(vm) not in by_uuid]
    trees = [_branch(vm, by_uuid, seen) for vm in roots]
    trees += [_branch(vm, by_uuid, seen) for uuid, vm in by_uuid.items() if uuid not in seen]
    return tuple(trees)


def _branch(vm: Vm, by_uuid: dict[str, Vm], seen: set[str]) -> Branch:
    seen.add(vm.domain.uuid)
    children = []
    for each in by_uuid.values():
        if _parent(each) == vm.domain.uuid and each.domain.uuid not in seen:
            children.append(_branch(each, by_uuid, seen))
    return Branch(vm, tuple(children))


def _parent(vm: Vm) -> str | None:
    return vm.metadata.parent if vm.metadata else None


def document(vm: Vm) -> dict[str, object]:
    """A VM as it stands in JSON output (docs/json.md)."""
    domain, metadata = vm.domain, vm.metadata
    common: dict[str, object] = {
        "name": domain.name,
        "uuid": domain.uuid,
        "id": domain.id,
        "state": vm.state,
        "memory_mib": domain.memory_mib,
        "vcpus": domain.vcpus,
        "ports": list(vm.ports),
    }
    if metadata is None:
        return common | {"unreadable": vm.unreadable}
    return common | {
        "technology": metadata.technology.value,
        "technology_label": metadata.technology.label,
        "confidential": metadata.technology.confidential,
        "image": metadata.image,
        "role": metadata.role.name.lower(),
        "generation": metadata.generation,
        "parent": metadata.parent_name,
        "parent_uuid": metadata.parent,
        "fork_id": metadata.fork_id,
        "index": metadata.index,
        "warm": warmth(metadata),
        "ended": _ended(vm, metadata),
        "owner": metadata.owner.hex() if metadata.owner else None,
        "launch_digest": metadata.processor.measurement.hex() if metadata.processor else None,
    }


def _ended(vm: Vm, metadata: Metadata) -> dict[str, int | None] | None:
    if metadata.ended is None and not vm.has_ended:
        return None
    return status_and_signal(metadata.ended)


def warmth(metadata: Metadata) -> dict[str, int] | None:
    """Of a warm child: how long it has waited, how long ago it was brought up to date."""
    warm, now = metadata.warmth, int(time.time())
    if metadata.phase is not Phase.WARM or warm is None:
        return None
    age_s, lag_s = max(0, now - warm.since), max(0, now - warm.refreshed)
    return {"age_s": age_s, "lag_s": lag_s, "held_bytes": warm.held_bytes}


def lines(branches: Iterable[Branch]) -> Iterator[tuple[str, Vm]]:
    """Each VM, with what is drawn before its name in a tree."""
    for branch in branches:
        yield "", branch.vm
        yield from _below(branch.children, "")


def _below(children: tuple[Branch, ...], lead: str) -> Iterator[tuple[str, Vm]]:
    for number, child in enumerate(children, 1):
        last = number == len(children)
        yield lead + ("└─ " if last else "├─ "), child.vm
        yield from _below(child.children, lead + ("   " if last else "│  "))
