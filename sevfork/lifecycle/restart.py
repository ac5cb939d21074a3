"""``sevfork up VM`` without an image: a VM that has ended, started anew as its domain says it now.

So an admin's ``virsh edit`` or ``virsh domrename`` comes into force. What ran in it is gone: its
agent has other keys, and its workload begins anew. A VM that was forked from another cannot come
back.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from sevfork.domain import metadata_xml
from sevfork.domain.metadata import Metadata, Phase
from sevfork.domain.spec import GuestSpec
from sevfork.domain.xml import require_agent_ready, spec_from_xml
from sevfork.errors import SevforkError, WrongState
from sevfork.handshake.launch import Role
from sevfork.host import serial_log
from sevfork.host.hypervisor import Domain, Hypervisor
from sevfork.lifecycle import ports
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.launching import launched_as, root_config
from sevfork.lifecycle.ports import PortWish
from sevfork.lifecycle.undo import Undo
from sevfork.lifecycle.up import Configure, UpOutcome, converse, publish_all


@dataclass(frozen=True)
class RestartPlan:
    """A VM that has ended, as it is going to be started; ``publish``: what it published before."""

    domain: Domain
    spec: GuestSpec
    text: str = field(repr=False)
    publish: tuple[PortWish, ...]
    replaced: None = None

    def xml(self, spec: GuestSpec) -> str:
        """The domain as it is defined: it is started as it is."""
        return self.text


def plan_restart(
    hypervisor: Hypervisor, reference: str, publish: tuple[PortWish, ...] = ()
) -> RestartPlan:
    """Look, decide and refuse; nothing is changed. Raises WrongState, PortTaken, UsageError."""
    domain = _find(hypervisor, reference)
    if domain.metadata_xml is None:
        raise WrongState(f"'{domain.name}' was not made by sevfork")
    if domain.state.active:
        raise WrongState(f"'{domain.name}' is {domain.state.value} already")
    xml = hypervisor.xml(domain.uuid)
    spec = spec_from_xml(xml)
    require_agent_ready(xml)
    if spec.metadata.phase is not Phase.READY:
        raise WrongState(f"'{spec.name}' never came to be", hint=f"sevfork rm '{spec.name}'")
    if spec.metadata.role is not Role.ROOT:
        raise WrongState(
            f"'{spec.name}' was forked from another VM, and what it received is gone",
            hint=f"sevfork rm '{spec.name}', and fork its parent again",
        )
    former = tuple(PortWish.like(port, host=port.host) for port in spec.metadata.ports)
    wishes = publish or former
    ports.require_free(hypervisor, wishes)
    return RestartPlan(domain, spec, xml, wishes)


def _find(hypervisor: Hypervisor, reference: str) -> Domain:
    try:
        return hypervisor.find(reference)
    except WrongState as exc:
        raise WrongState(exc.message, hint="a new VM needs --image") from exc


def run_restart(job: Job, plan: RestartPlan, configure: Configure = converse) -> UpOutcome:
    """Start it; if anything fails, or is interrupted, it is as it was, and has ended."""
    hypervisor, former = job.hypervisor, plan.spec.metadata
    with Undo() as undo:
        undo.on_failure(_write, hypervisor, plan.spec, former)
        spec = launched_as(
            hypervisor.storage, _without_snapshot(plan.spec), root_config(former.owner)
        )
        _write(hypervisor, spec, spec.metadata)
        job.watch(spec.name, "launch")
        undo.on_failure(hypervisor.destroy, spec.uuid)
        hypervisor.start(spec.uuid)
        started = time.monotonic()
        try:
            boot_s = configure(job, spec)
        except SevforkError as exc:
            serial_log.add_to(exc, hypervisor, spec)
            raise
        ready_s = time.monotonic() - started
        spec = publish_all(hypervisor, spec, plan.publish)
        _write(hypervisor, spec, spec.metadata)
    if former.snapshot is not None:
        hypervisor.storage.delete(former.snapshot.name)
    job.watch(spec.name, "ready")
    return UpOutcome(spec, boot_s, ready_s)


def _without_snapshot(spec: GuestSpec) -> GuestSpec:
    """A snapshot is of a VM's memory, which is gone with it; nor is any port published yet."""
    metadata = spec.metadata
    kept = metadata.snapshot.name if metadata.snapshot else None
    volumes = tuple(name for name in metadata.volumes if name != kept)
    return replace(spec, metadata=replace(metadata, snapshot=None, volumes=volumes, ports=()))


def _write(hypervisor: Hypervisor, spec: GuestSpec, metadata: Metadata) -> None:
    hypervisor.set_metadata(spec.uuid, metadata_xml.write(metadata))
