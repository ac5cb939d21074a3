"""What a fork is going to do, decided before anything is touched."""

from __future__ import annotations

from dataclasses import dataclass, field

from sevfork.domain.child import require_forkable
from sevfork.domain.metadata import Metadata, Phase
from sevfork.domain.spec import GuestSpec, child_spec, console_log_name, random_mac
from sevfork.errors import HostCannot, InsecureRefused, UsageError, WrongState
from sevfork.handshake.launch import Role
from sevfork.host import maker
from sevfork.host.hypervisor import Domain, Hypervisor
from sevfork.lifecycle.find import running_vm
from sevfork.lifecycle.naming import child_names
from sevfork.lifecycle.ports import PortWish, require_free
from sevfork.lifecycle.warm.find import warm_children
from sevfork.wire.volume_serial import new_serial

# Room for the header, padding of the last chunk, archive headers and CRIU's own images.
_VOLUME_SLACK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class ForkRequest:
    """``publish`` None: every port that the parent publishes, each on a free port of the host."""

    parent: str
    count: int = 1
    name: str | None = None
    replace: bool = False
    publish: tuple[PortWish, ...] | None = None
    token: bytes | None = field(default=None, repr=False)
    # Take no warm children.
    cold: bool = False
    # Where one child fails, remove the others.
    all_or_nothing: bool = False


@dataclass(frozen=True)
class ForkPlan:
    """What a fork is going to do, decided before anything is touched.

    ``names`` are those of children that are yet to be launched: what warm ones there are is known
    when they are taken.
    """

    request: ForkRequest
    domain: Domain
    spec: GuestSpec
    # The parent's domain as it runs, of which its children's are made.
    xml: str = field(repr=False)
    names: tuple[str, ...]
    replaced: tuple[Domain, ...]
    serial: str
    volume_name: str
    volume_bytes: int
    publish: tuple[PortWish, ...]


def plan_fork(hypervisor: Hypervisor, request: ForkRequest) -> ForkPlan:
    """Look, decide and refuse; nothing is changed.

    Raises WrongState (also for a device that cannot be forked), NameTaken, UsageError, HostCannot
    (memory, technology), PortTaken.
    """
    domain, spec = running_vm(hypervisor, request.parent, "be forked")
    _require_made(spec)
    xml = hypervisor.xml(domain.uuid)
    require_forkable(xml)
    others = {each.name: each for each in hypervisor.domains()}
    names = child_names(
        domain.name, request.name, request.count, others.keys(), replace=request.replace
    )
    _require_memory(hypervisor, spec, request.count - _warm_ready(hypervisor, domain, request))
    replaced = tuple(_replaceable(others[name]) for name in names if name in others)
    wishes = _wishes(request, spec)
    require_free(hypervisor, wishes, replaced)
    serial = new_serial()
    return ForkPlan(
        request=request,
        domain=domain,
        spec=spec,
        xml=xml,
        names=tuple(names),
        replaced=replaced,
        serial=serial,
        volume_name=f"{serial}.{maker.tag()}.sealed",
        volume_bytes=_volume_bytes(spec.memory_mib),
        publish=wishes,
    )


def _warm_ready(hypervisor: Hypervisor, domain: Domain, request: ForkRequest) -> int:
    """How many of the children have their memory already; a name of its own needs a new VM."""
    if request.cold or request.name is not None:
        return 0
    ready = [each for each in warm_children(hypervisor, domain.uuid) if not each.is_stale]
    return min(len(ready), request.count)


def _wishes(request: ForkRequest, spec: GuestSpec) -> tuple[PortWish, ...]:
    if request.publish is None:
        return tuple(PortWish.like(port, host=None) for port in spec.metadata.ports)
    if request.count > 1 and any(wish.host for wish in request.publish):
        raise UsageError(
            f"{request.count} children cannot share one port of the host",
            hint="--publish GUEST lets sevfork choose one for each",
        )
    return request.publish


def _replaceable(domain: Domain) -> Domain:
    if domain.metadata_xml is None:
        raise InsecureRefused(f"'{domain.name}' was not made by sevfork: it is not replaced")
    return domain


def _require_made(spec: GuestSpec) -> None:
    if spec.metadata.phase is not Phase.READY:
        raise WrongState(f"'{spec.name}' is still being made")


def _require_memory(hypervisor: Hypervisor, spec: GuestSpec, count: int) -> None:
    free_mib, wanted_mib = hypervisor.facts().free_memory_mib, count * spec.memory_mib
    if wanted_mib > free_mib:
        raise HostCannot(
            f"{count} children of {spec.memory_mib} MiB do not fit into "
            f"{free_mib} MiB of free memory",
            hint="fork fewer children, or end other VMs",
        )


def _volume_bytes(memory_mib: int) -> int:
    """A workload fits into its guest's memory, so its state fits into that and a little more.

    The volume is sparse: only what is written takes room.
    """
    return memory_mib * 2**20 + _VOLUME_SLACK_BYTES


def sketch_child(plan: ForkPlan, name: str, uuid: str) -> GuestSpec:
    """A child's domain as far as it is known before the capture: no OFFER, no measurement yet."""
    parent = plan.spec.metadata
    log_name = console_log_name(name, uuid)
    metadata = Metadata(
        technology=parent.technology,
        role=Role.CHILD,
        phase=Phase.FORMING,
        image=parent.image,
        cpu_model=parent.cpu_model,
        generation=parent.generation + 1,
        parent=plan.spec.uuid,
        parent_name=plan.spec.name,
        workload_ports=parent.workload_ports,
        volumes=(log_name,),
        maker=maker.this_process(),
        owner=parent.owner,
    )
    return child_spec(
        plan.spec, name=name, uuid=uuid, mac=random_mac(), console_log=log_name, metadata=metadata
    )
