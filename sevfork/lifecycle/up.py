"""``sevfork up``: define and start a fork-ready VM, and wait until its workload is ready.

Every act registers its undo before it is done; what a killed process leaves behind, the next
command finds by the metadata (``sevfork.lifecycle.reap``).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import socket
import time
import uuid as uuids
from dataclasses import dataclass, replace
from typing import Protocol

from sevfork.domain import metadata_xml
from sevfork.domain.launch_security import hardware_launch
from sevfork.domain.metadata import Metadata, Phase, ProcessorState, PublishedPort
from sevfork.domain.spec import Accelerator, GuestSpec, HardwareLaunch, console_log_name, random_mac
from sevfork.domain.xml import domain_xml
from sevfork.errors import (
    HostCannot,
    InsecureRefused,
    NameTaken,
    NotAuthentic,
    SevforkError,
    TimedOut,
    UsageError,
)
from sevfork.handshake.launch import LaunchConfig, Role, launch_config_hash
from sevfork.host import image_volumes, kvm_probe, maker, serial_log
from sevfork.host.agent_client import AgentClient
from sevfork.host.hypervisor import Channel, ChannelBusy, Domain, Hypervisor, PortTaken
from sevfork.image.image import Image
from sevfork.lifecycle.inventory import LOOPBACK
from sevfork.lifecycle.naming import check_name
from sevfork.lifecycle.progress import Watcher, unwatched
from sevfork.lifecycle.remove import remove_domain, remove_made
from sevfork.simulated.launch import launched, simulated_report
from sevfork.technology import Technology
from sevfork.wire import protocol

log = logging.getLogger(__name__)

# Where a host port is chosen by sevfork: above the usual services, below Linux's ephemeral range.
CHOSEN_PORTS = range(20000, 32000)
_PORT_TRIES = 100
_BUSY_POLL_S = 0.3


@dataclass(frozen=True)
class PortWish:
    """A guest's TCP port to publish; ``host`` None lets sevfork choose."""

    host: int | None
    guest: int


@dataclass(frozen=True)
class UpRequest:
    """``accelerator`` None: KVM when it really runs the image, else TCG; ``vcpus`` None: as many as
    suit that."""

    name: str
    image: Image
    memory_mib: int = 1024
    vcpus: int | None = None
    publish: tuple[PortWish, ...] = ()
    replace: bool = False
    accelerator: Accelerator | None = None
    timeout_s: float = 300.0


@dataclass(frozen=True)
class UpPlan:
    """What ``up`` is going to do; the spec lacks what is known only at the launch."""

    request: UpRequest
    spec: GuestSpec
    replaced: Domain | None


@dataclass(frozen=True)
class UpOutcome:
    """``boot_s``: from the domain's start to the agent's first answer; ``ready_s``: to the workload
    being ready."""

    spec: GuestSpec
    boot_s: float
    ready_s: float


class Configure(Protocol):
    """The conversation that makes a started guest a ready one; returns the boot time in s."""

    def __call__(
        self, hypervisor: Hypervisor, spec: GuestSpec, deadline: float, watch: Watcher
    ) -> float: ...


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
    if hypervisor.local:
        _require_free_ports(request, replaced)
    return UpPlan(request, _spec(hypervisor, request), replaced)


def _require_memory(hypervisor: Hypervisor, request: UpRequest, replaced: Domain | None) -> None:
    free_mib = hypervisor.facts().free_memory_mib
    if replaced and replaced.state.active:
        free_mib += replaced.memory_mib
    if request.memory_mib > free_mib:
        raise HostCannot(
            f"{request.memory_mib} MiB for the VM, but the host has {free_mib} MiB free",
            hint="give it less --memory, or end another VM",
        )


def _require_free_ports(request: UpRequest, replaced: Domain | None) -> None:
    """Tell now what QEMU would tell when the guest has booted; a replaced VM gives its ports up."""
    own = metadata_xml.read(replaced.metadata_xml or "").ports if replaced else ()
    for wish in request.publish:
        if wish.host and wish.host not in {port.host for port in own}:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((LOOPBACK, wish.host))
                except OSError as exc:
                    raise PortTaken.of(wish.host) from exc


def _spec(hypervisor: Hypervisor, request: UpRequest) -> GuestSpec:
    uuid, image = str(uuids.uuid4()), request.image
    boot = image_volumes.boot_paths(hypervisor.storage, image)
    hardware = _hardware(hypervisor, image.technology)
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
    )
    return GuestSpec(
        name=request.name,
        uuid=uuid,
        memory_mib=request.memory_mib,
        vcpus=request.vcpus or chosen.default_vcpus,
        accelerator=chosen,
        boot=boot,
        mac=random_mac(),
        console_log=hypervisor.storage.path_of(log_name),
        metadata=metadata,
        hardware=hardware,
    )


def _hardware(hypervisor: Hypervisor, technology: Technology) -> HardwareLaunch | None:
    if not technology.confidential:
        return None
    config_hash = launch_config_hash(technology, root_config().encode())
    capabilities = hypervisor.domain_capabilities(Accelerator.KVM)
    return hardware_launch(technology, capabilities, config_hash)


def run_up(
    hypervisor: Hypervisor,
    plan: UpPlan,
    watch: Watcher = unwatched,
    configure: Configure | None = None,
) -> UpOutcome:
    """Do it all; if anything fails, or is interrupted, nothing of the new VM is left."""
    deadline = time.monotonic() + plan.request.timeout_s
    with contextlib.ExitStack() as undo:
        undo.callback(_forget_images, hypervisor)
        spec = _launch(hypervisor, plan, undo, watch)
        started = time.monotonic()
        try:
            boot_s = (configure or converse)(hypervisor, spec, deadline, watch)
        except SevforkError as exc:
            serial_log.add_to(exc, hypervisor, spec)
            raise
        ready_s = time.monotonic() - started
        spec = _publish_all(hypervisor, spec, plan.request.publish)
        hypervisor.set_metadata(spec.uuid, metadata_xml.write(spec.metadata))
        undo.pop_all()
    watch(spec.name, "ready")
    return UpOutcome(spec, boot_s, ready_s)


def _forget_images(hypervisor: Hypervisor) -> None:
    """A failure here must not hide why the VM did not come to be; the next `rm` does it again."""
    try:
        image_volumes.delete_unused(hypervisor)
    except SevforkError as exc:
        log.debug("unused images may be left: %s", exc.message)


def _launch(
    hypervisor: Hypervisor, plan: UpPlan, undo: contextlib.ExitStack, watch: Watcher
) -> GuestSpec:
    request, name = plan.request, plan.spec.name
    with image_volumes.in_use():
        watch(name, "image")
        image_volumes.ensure(
            hypervisor.storage,
            request.image,
            lambda done, total: watch(name, "image", done, total),
        )
        spec = _completed(hypervisor, plan, watch)
        if plan.replaced:
            remove_domain(hypervisor, plan.replaced)
        watch(name, "launch")
        undo.callback(remove_made, hypervisor, spec)
        hypervisor.define(domain_xml(spec))
    hypervisor.start(spec.uuid)
    return spec


def _completed(hypervisor: Hypervisor, plan: UpPlan, watch: Watcher) -> GuestSpec:
    """The spec with the accelerator that works, and the launch as the processor measures it."""
    request, spec = plan.request, plan.spec
    if spec.hardware:
        return spec  # the processor itself measures it
    watch(spec.name, "looking for KVM")
    chosen = kvm_probe.choose(hypervisor, spec.boot, request.accelerator)
    vcpus = request.vcpus or chosen.default_vcpus
    state = launched(
        functools.partial(image_volumes.sha384, hypervisor.storage),
        spec.boot,
        vcpus=vcpus,
        cpu_model=spec.metadata.cpu_model,
        config=root_config(),
    )
    _require_expected(request.image, vcpus, state)
    metadata = replace(spec.metadata, processor=state)
    return replace(spec, accelerator=chosen, vcpus=vcpus, metadata=metadata)


def _require_expected(image: Image, vcpus: int, state: ProcessorState) -> None:
    """What is going to be launched is what the image's manifest promises, where it says so."""
    wanted = image.launch_digests.get(vcpus)
    if wanted is not None and wanted != state.measurement.hex():
        raise NotAuthentic(
            f"launch digest '{state.measurement.hex()[:16]}...', wanted '{wanted[:16]}...'",
            hint="build the image again with 'sevfork guest build'",
        )


def root_config() -> LaunchConfig:
    """The launch configuration of a VM without an owner's key."""
    return LaunchConfig(Role.ROOT)


def converse(hypervisor: Hypervisor, spec: GuestSpec, deadline: float, watch: Watcher) -> float:
    """Wait for the agent, hand it its launch configuration, wait for the workload."""
    started = time.monotonic()
    watch(spec.name, "boot")
    with contextlib.ExitStack() as opened:
        channel = open_channel(hypervisor, spec, deadline)
        opened.callback(channel.close)
        agent = AgentClient(channel, simulated_report(spec.metadata))
        agent.wait_for_agent(deadline)
        boot_s = time.monotonic() - started
        watch(spec.name, "workload")
        config = protocol.Configure(root_config().encode())
        agent.ask(config, protocol.Status, deadline=deadline)
        agent.wait_until_ready(deadline)
    return boot_s


def open_channel(hypervisor: Hypervisor, spec: GuestSpec, deadline: float) -> Channel:
    """The agent's channel, as soon as no other command holds it; raises TimedOut."""
    while True:
        try:
            return hypervisor.open_channel(spec.uuid)
        except ChannelBusy as exc:
            if time.monotonic() >= deadline:
                raise TimedOut(f"another command keeps the agent of '{spec.name}'") from exc
        time.sleep(_BUSY_POLL_S)


def _publish_all(
    hypervisor: Hypervisor, spec: GuestSpec, wishes: tuple[PortWish, ...]
) -> GuestSpec:
    """The spec as it is when all is done: ports published, no maker any more."""
    ports = tuple(publish(hypervisor, spec.uuid, wish) for wish in wishes)
    metadata = replace(spec.metadata, phase=Phase.READY, maker=None, ports=ports)
    return replace(spec, metadata=metadata)


def publish(hypervisor: Hypervisor, uuid: str, wish: PortWish) -> PublishedPort:
    """Publish one port: on the host port that was asked for, or on a free one."""
    if wish.host is not None:
        hypervisor.publish(uuid, wish.host, wish.guest)
        return PublishedPort(wish.host, wish.guest)
    # Whether a port is free is known on the libvirt host only: try.
    for host_port in random.sample(CHOSEN_PORTS, _PORT_TRIES):  # noqa: S311 - no secret
        with contextlib.suppress(PortTaken):
            hypervisor.publish(uuid, host_port, wish.guest)
            return PublishedPort(host_port, wish.guest)
    raise HostCannot(f"no free port found on the libvirt host for the guest's port {wish.guest}")
