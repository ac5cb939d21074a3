"""``sevfork up``: define and start a fork-ready VM, and wait until its workload is ready.

Every act registers its undo before it is done; what a killed process leaves behind, the next
command finds by the metadata (``sevfork.lifecycle.reap``).
"""

from __future__ import annotations

import logging
import time
import uuid as uuids
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from sevfork.domain import metadata_xml
from sevfork.domain.launch_security import hardware_launch
from sevfork.domain.metadata import Metadata, Phase
from sevfork.domain.spec import Accelerator, GuestSpec, HardwareLaunch, console_log_name, random_mac
from sevfork.domain.template import Template, fork_ready_xml
from sevfork.domain.xml import domain_xml
from sevfork.errors import (
    HostCannot,
    InsecureRefused,
    NameTaken,
    NotAuthentic,
    SevforkError,
    UsageError,
)
from sevfork.handshake.launch import Role, launch_config_hash
from sevfork.host import image_volumes, kvm_probe, maker, serial_log
from sevfork.host.hypervisor import Domain, Hypervisor
from sevfork.image.image import Image
from sevfork.lifecycle import ports
from sevfork.lifecycle.agents import open_agent
from sevfork.lifecycle.endorsing import configure
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.launching import launched_as, root_config
from sevfork.lifecycle.naming import check_name
from sevfork.lifecycle.ports import PortWish
from sevfork.lifecycle.remove import remove_domain, remove_made
from sevfork.lifecycle.undo import Undo
from sevfork.technology import Technology

log = logging.getLogger(__name__)
_Said = TypeVar("_Said")
DEFAULT_MEMORY_MIB = 1024


@dataclass(frozen=True)
class UpRequest:
    """``accelerator`` None: KVM when it really runs the image, else TCG; ``vcpus`` None: as many as
    suit that; ``owner`` is the SHA-384 of the owner's public key."""

    name: str
    image: Image
    memory_mib: int = DEFAULT_MEMORY_MIB
    vcpus: int | None = None
    publish: tuple[PortWish, ...] = ()
    replace: bool = False
    accelerator: Accelerator | None = None
    owner: bytes | None = None
    # An admin's own domain, to which what a fork needs is added; None: sevfork's.
    template: Template | None = None


@dataclass(frozen=True)
class UpPlan:
    """What ``up`` is going to do; the spec lacks what is known only at the launch."""

    request: UpRequest
    spec: GuestSpec
    replaced: Domain | None

    def xml(self, spec: GuestSpec) -> str:
        """The domain as libvirt is given it. Raises UsageError for a template that does not fit."""
        template = self.request.template
        return domain_xml(spec) if template is None else fork_ready_xml(template, spec)


@dataclass(frozen=True)
class UpOutcome:
    """``boot_s``: from the domain's start to the agent's first answer; ``ready_s``: to the workload
    being ready."""

    spec: GuestSpec
    boot_s: float
    ready_s: float


def with_template(request: UpRequest, memory_mib: int | None, text: str) -> UpRequest:
    """The request with an admin's own domain, and with what that says.

    ``memory_mib`` is what was asked for beside it. Raises UsageError where the two differ.
    """
    template = Template.read(text)
    return replace(
        request,
        template=template,
        accelerator=_agreed("--virt-type", request.accelerator, template.accelerator),
        memory_mib=_agreed("--memory", memory_mib, template.memory_mib) or request.memory_mib,
        vcpus=_agreed("--vcpus", request.vcpus, template.vcpus),
    )


def _agreed(option: str, asked: _Said | None, written: _Said | None) -> _Said | None:
    if asked is not None and written is not None and asked != written:
        raise UsageError(f"{option} and the file of --xml say two things")
    return written if asked is None else asked


Configure = Callable[[Job, GuestSpec], float]
"""The conversation that makes a started guest a ready one; returns the boot time in s."""


def plan_up(hypervisor: Hypervisor, request: UpRequest) -> UpPlan:
    """Look, decide and refuse; nothing is changed. Raises NameTaken, HostCannot, UsageError."""
    name = check_name(request.name)
    if request.image.technology.confidential and request.accelerator is Accelerator.TCG:
        raise UsageError("confidential VMs run on KVM only")
    replaced = next((each for each in hypervisor.domains() if each.name == name), None)
    if replaced and not request.replace:
        raise NameTaken(f"'{name}' exists already", hint="choose another name, or --replace")
    if replaced and replaced.metadata_xml is None:
        raise InsecureRefused(f"'{name}' was not made by sevfork: it is not replaced")
    _require_memory(hypervisor, request, replaced)
    ports.require_free(hypervisor, request.publish, (replaced,) if replaced else ())
    plan = UpPlan(request, _spec(hypervisor, request), replaced)
    plan.xml(plan.spec)  # refuses a template before anything is made
    return plan


def _require_memory(hypervisor: Hypervisor, request: UpRequest, replaced: Domain | None) -> None:
    free_mib = hypervisor.facts().free_memory_mib
    if replaced and replaced.state.active:
        free_mib += replaced.memory_mib
    if request.memory_mib > free_mib:
        raise HostCannot(
            f"{request.memory_mib} MiB for the VM, but the host has {free_mib} MiB free",
            hint="give it less --memory, or end another VM",
        )


def _spec(hypervisor: Hypervisor, request: UpRequest) -> GuestSpec:
    uuid, image = str(uuids.uuid4()), request.image
    boot = image_volumes.boot_paths(hypervisor.storage, image)
    hardware = _hardware(hypervisor, image.technology, request.owner)
    wanted = Accelerator.KVM if hardware else request.accelerator
    chosen = kvm_probe.expected(hypervisor, boot, wanted)
    log_name = console_log_name(request.name, uuid)
    metadata = Metadata(
        technology=image.technology,
        role=Role.ROOT,
        phase=Phase.FORMING,
        image=image.name,
        cpu_model=image.cpu_model,
        workload_ports=image.workload_ports,
        volumes=(log_name,),
        maker=maker.this_process(),
        owner=request.owner,
    )
    return GuestSpec(
        name=request.name,
        uuid=uuid,
        memory_mib=request.memory_mib,
        vcpus=request.vcpus or chosen.default_vcpus,
        accelerator=chosen,
        boot=boot,
        mac=(request.template and request.template.mac) or random_mac(),
        console_log=hypervisor.storage.path_of(log_name),
        metadata=metadata,
        hardware=hardware,
    )


def _hardware(
    hypervisor: Hypervisor, technology: Technology, owner: bytes | None
) -> HardwareLaunch | None:
    if not technology.confidential:
        return None
    config_hash = launch_config_hash(technology, root_config(owner).encode())
    capabilities = hypervisor.domain_capabilities(Accelerator.KVM)
    return hardware_launch(technology, capabilities, config_hash)


def run_up(job: Job, plan: UpPlan, configure: Configure | None = None) -> UpOutcome:
    """Do it all; if anything fails, or is interrupted, nothing of the new VM is left."""
    with Undo() as undo:
        undo.on_failure(_forget_images, job.hypervisor)
        spec = _launch(job, plan, undo)
        started = time.monotonic()
        try:
            boot_s = (configure or converse)(job, spec)
        except SevforkError as exc:
            serial_log.add_to(exc, job.hypervisor, spec)
            raise
        ready_s = time.monotonic() - started
        spec = publish_all(job.hypervisor, spec, plan.request.publish)
        job.hypervisor.set_metadata(spec.uuid, metadata_xml.write(spec.metadata))
    job.watch(spec.name, "ready")
    return UpOutcome(spec, boot_s, ready_s)


def _forget_images(hypervisor: Hypervisor) -> None:
    """A failure here must not hide why the VM did not come to be; the next `rm` does it again."""
    try:
        image_volumes.delete_unused(hypervisor)
    except SevforkError as exc:
        log.debug("unused images may be left: %s", exc.message)


def _launch(job: Job, plan: UpPlan, undo: Undo) -> GuestSpec:
    hypervisor, name = job.hypervisor, plan.spec.name
    with image_volumes.in_use():
        job.watch(name, "image")
        image_volumes.ensure(
            hypervisor.storage,
            plan.request.image,
            lambda done, total: job.watch(name, "image", done, total),
        )
        spec = _completed(job, plan)
        if plan.replaced:
            remove_domain(hypervisor, plan.replaced)
        job.watch(name, "launch")
        undo.on_failure(remove_made, hypervisor, spec)
        hypervisor.define(plan.xml(spec))
    hypervisor.start(spec.uuid)
    return spec


def _completed(job: Job, plan: UpPlan) -> GuestSpec:
    """The spec with the accelerator that works, and the launch as the processor measures it."""
    request, spec = plan.request, plan.spec
    if spec.hardware:
        return spec  # the processor itself measures it
    job.watch(spec.name, "looking for KVM")
    chosen = kvm_probe.choose(job.hypervisor, spec.boot, request.accelerator)
    vcpus = request.vcpus or chosen.default_vcpus
    spec = replace(spec, accelerator=chosen, vcpus=vcpus)
    spec = launched_as(job.hypervisor.storage, spec, root_config(request.owner))
    _require_expected(request.image, spec)
    return spec


def _require_expected(image: Image, spec: GuestSpec) -> None:
    """What is going to be launched is what the image's manifest promises, where it says so."""
    promised, state = image.launch_digests.get(spec.vcpus), spec.metadata.processor
    if promised is not None and state is not None and promised != state.measurement.hex():
        raise NotAuthentic(
            f"launch digest '{state.measurement.hex()[:16]}...', wanted '{promised[:16]}...'",
            hint="build the image again with 'sevfork guest build'",
        )


def converse(job: Job, spec: GuestSpec) -> float:
    """Wait for the agent, hand it its launch configuration, wait for the workload."""
    started = time.monotonic()
    job.watch(spec.name, "boot")
    with open_agent(job, spec) as agent:
        agent.wait_for_agent(job.deadline)
        boot_s = time.monotonic() - started
        job.watch(spec.name, "workload")
        configure(job, spec, agent, root_config(spec.metadata.owner))
        agent.wait_until_ready(job.deadline)
    return boot_s


def publish_all(hypervisor: Hypervisor, spec: GuestSpec, wishes: tuple[PortWish, ...]) -> GuestSpec:
    """The spec as it is when all is done: ports published, no maker any more."""
    published = tuple(ports.publish(hypervisor, spec.uuid, wish) for wish in wishes)
    metadata = replace(spec.metadata, phase=Phase.READY, maker=None, ports=published)
    return replace(spec, metadata=metadata)
