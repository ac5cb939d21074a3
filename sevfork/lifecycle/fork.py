"""The main job: fork a running VM into freshly launched children.

The host's part of it is to carry bytes and to launch domains. Every act registers its undo before
it is done, so that whatever fails, or is interrupted, leaves the parent running and nothing else;
what a killed process leaves behind, the next command finds by the metadata (``reap``).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import threading
import time
import uuid as uuids
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sevfork.domain import metadata_xml
from sevfork.domain.disks import disk_xml, free_target, has_target, volume_paths
from sevfork.domain.metadata import Metadata, Phase, PublishedPort
from sevfork.domain.spec import Accelerator, GuestSpec, child_spec, console_log_name, random_mac
from sevfork.domain.xml import domain_xml
from sevfork.errors import (
    HostCannot,
    InsecureRefused,
    NotAuthentic,
    RefusedByGuest,
    RolledBack,
    SevforkError,
    TimedOut,
    UsageError,
    WrongState,
)
from sevfork.handshake.launch import LaunchConfig, Role, launch_config_hash
from sevfork.handshake.messages import Offer
from sevfork.host import image_volumes, maker, serial_log
from sevfork.host.agent_client import AgentClient, Cancelled
from sevfork.host.hypervisor import (
    ChannelBusy,
    ChannelClosed,
    Domain,
    Hypervisor,
    Volume,
)
from sevfork.lifecycle.find import running_vm
from sevfork.lifecycle.naming import child_names
from sevfork.lifecycle.progress import Watcher
from sevfork.lifecycle.remove import remove_domain, remove_made
from sevfork.lifecycle.up import PortWish, publish
from sevfork.simulated.launch import launched, simulated_report
from sevfork.technology import Technology
from sevfork.wire import protocol
from sevfork.wire.volume_serial import new_serial

log = logging.getLogger(__name__)

# Room for the header, padding of the last chunk, archive headers and CRIU's own images.
_VOLUME_SLACK_BYTES = 256 * 2**20
_DETACH_TIMEOUT_S = 30.0
_UNDO_TIMEOUT_S = 20.0
_BUSY_POLL_S = 0.3
_Reply = TypeVar("_Reply", bound=protocol.Message)


@dataclass(frozen=True)
class ForkRequest:
    """``publish`` None: every port that the parent publishes, each on a free port of the host."""

    parent: str
    count: int = 1
    name: str | None = None
    replace: bool = False
    publish: tuple[PortWish, ...] | None = None
    token: bytes | None = field(default=None, repr=False)
    timeout_s: float = 300.0


@dataclass(frozen=True)
class ForkedChild:
    """A child that runs, or with ``error`` one that did not come to be and is gone again."""

    name: str
    uuid: str
    ports: tuple[PublishedPort, ...] = ()
    generation: int = 0
    ready_s: float = 0.0
    restore_ms: float = 0.0
    error: SevforkError | None = None


@dataclass(frozen=True)
class ForkOutcome:
    """``pause_ms`` is how long the parent's workload stood still; times count from the start."""

    parent: str
    parent_uuid: str
    technology: Technology
    accelerator: Accelerator
    fork_id: str
    pause_ms: float
    capture_s: float
    state_bytes: int
    sealed_bytes: int
    children: tuple[ForkedChild, ...]


@dataclass(frozen=True)
class ForkPlan:
    """What a fork is going to do, decided before anything is touched."""

    request: ForkRequest
    domain: Domain
    spec: GuestSpec
    names: tuple[str, ...]
    replaced: tuple[Domain, ...]
    serial: str
    volume_name: str
    volume_bytes: int
    publish: tuple[PortWish, ...]


def plan_fork(hypervisor: Hypervisor, request: ForkRequest) -> ForkPlan:
    """Look, decide and refuse; nothing is changed.

    Raises WrongState, NameTaken, UsageError, HostCannot (memory, technology).
    """
    domain, spec = running_vm(hypervisor, request.parent, "be forked")
    _require_forkable(spec)
    others = {each.name: each for each in hypervisor.domains()}
    names = child_names(
        domain.name, request.name, request.count, others.keys(), replace=request.replace
    )
    _require_memory(hypervisor, spec, request.count)
    serial = new_serial()
    return ForkPlan(
        request=request,
        domain=domain,
        spec=spec,
        names=tuple(names),
        replaced=tuple(_replaceable(others[name]) for name in names if name in others),
        serial=serial,
        volume_name=f"{serial}.{maker.tag()}.sealed",
        volume_bytes=_volume_bytes(spec.memory_mib),
        publish=_wishes(request, spec),
    )


def _wishes(request: ForkRequest, spec: GuestSpec) -> tuple[PortWish, ...]:
    if request.publish is None:
        return tuple(PortWish(None, port.guest) for port in spec.metadata.ports)
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


def _require_forkable(spec: GuestSpec) -> None:
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
    )
    return child_spec(
        plan.spec, name=name, uuid=uuid, mac=random_mac(), console_log=log_name, metadata=metadata
    )


class Fork:
    """One fork while it happens. ``capture`` comes first, then ``make_child`` for each index."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        plan: ForkPlan,
        watch: Watcher,
        cancelled: threading.Event | None = None,
    ) -> None:
        self.plan, self._hypervisor, self._watch = plan, hypervisor, watch
        self._phases: dict[str, str] = {}
        self._cancelled = cancelled or threading.Event()
        self._started = time.monotonic()
        self.deadline = self._started + plan.request.timeout_s
        self._undo = contextlib.ExitStack()
        self._children = contextlib.ExitStack()

    def __enter__(self) -> Fork:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Children stay if all went well to the very end; a signal here still takes them along."""
        with self._children:
            self._undo.close()
            if kind is None:
                self._children.pop_all()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def capture(self) -> protocol.Captured:
        """Seal the parent's state into a new volume; the parent's agent keeps the OFFERs."""
        plan = self.plan
        self.parent = self._open_parent()
        self._choose_names()
        self._require_capturable()
        self.volume = self._make_volume()
        with self._plugged(plan.spec.uuid, self.volume, readonly=False):
            request = protocol.Capture(plan.request.count, plan.serial, plan.request.token)
            self.captured = self._ask_parent(request, protocol.Captured)
            self._undo.callback(self._best_effort, self._abandon)
        if len(self.captured.offers) != plan.request.count:
            raise NotAuthentic(
                "the parent's agent made another number of OFFERs than was asked for"
            )
        self._tell(plan.domain.name, "captured")
        return self.captured

    def make_child(self, index: int) -> ForkedChild:
        """Launch, join, restore; raises after having removed whatever it had made."""
        name = self.plan.names[index]
        with contextlib.ExitStack() as undo:
            spec = self._launch(index, undo)
            try:
                agent = self._open_child(spec, undo)
                restored = self._hand_over(index, spec, agent)
                ports = self._release(spec)
            except SevforkError as exc:
                serial_log.add_to(exc, self._hypervisor, spec)
                raise
            self._finish(spec, ports, restored.generation)
            self._children.callback(remove_made, self._hypervisor, spec)
            undo.pop_all()
            agent.close()
        child = ForkedChild(name, spec.uuid, ports, restored.generation, self.elapsed_s)
        self._tell(name, "ready")
        return replace(child, restore_ms=restored.restore_ms)

    def _open_parent(self) -> AgentClient:
        self._tell(self.plan.domain.name, "connect")
        while True:
            try:
                return self._open(self.plan.spec, self._undo)
            except ChannelBusy:
                self._tell(self.plan.domain.name, "waiting for another command")
                self._sleep(_BUSY_POLL_S, "another command holds the parent's agent")

    def _choose_names(self) -> None:
        """Default names anew: while we waited for the parent, another fork may have taken them."""
        request = self.plan.request
        if request.name is None:
            taken = {each.name for each in self._hypervisor.domains()}
            names = child_names(self.plan.domain.name, None, request.count, taken)
            self.plan = replace(self.plan, names=tuple(names))

    def _ask_parent(self, request: protocol.Message, reply: type[_Reply]) -> _Reply:
        """Raises WrongState when the parent ends meanwhile, which is not the child's doing."""
        name = self.plan.domain.name
        try:
            return self.parent.ask(
                request, reply, deadline=self.deadline, on_progress=self._telling(name)
            )
        except ChannelClosed as exc:
            raise WrongState(f"the parent '{name}' has ended, or its channel broke") from exc

    def _open(self, spec: GuestSpec, undo: contextlib.ExitStack) -> AgentClient:
        channel = self._hypervisor.open_channel(spec.uuid)
        undo.callback(channel.close)
        return AgentClient(channel, simulated_report(spec.metadata), self._cancelled)

    def _sleep(self, seconds: float, message: str) -> None:
        if self._cancelled.wait(seconds):
            raise Cancelled("interrupted")
        if time.monotonic() > self.deadline:
            raise TimedOut(message)

    def _require_capturable(self) -> None:
        status = self.parent.wait_for_agent(min(self.deadline, time.monotonic() + 30))
        if status.role is None:
            raise WrongState(f"'{self.plan.domain.name}' was never configured by 'sevfork up'")
        status = self.parent.wait_until_ready(self.deadline)
        if status.uncapturable:
            raise RefusedByGuest(
                f"the workload cannot be forked: {protocol.clean(status.uncapturable)}"
            )

    def _make_volume(self) -> Volume:
        self._undo.callback(self._best_effort, self._delete_volume)
        return self._hypervisor.storage.create(self.plan.volume_name, self.plan.volume_bytes)

    def _delete_volume(self) -> None:
        """Not while the parent still has it: its name tells the next command whose it was."""
        storage, name = self._hypervisor.storage, self.plan.volume_name
        plugged: frozenset[str] = frozenset()
        with contextlib.suppress(WrongState):  # a parent that is gone holds nothing
            plugged = volume_paths(self._hypervisor.xml(self.plan.spec.uuid))
        if storage.path_of(name) in plugged:
            raise WrongState(f"the parent has not let the volume '{name}' go")
        storage.delete(name)

    def _best_effort(self, clean_up: Callable[[], None]) -> None:
        """What is cleaned up at the end never replaces the outcome; the next command has a try."""
        try:
            clean_up()
        except SevforkError as exc:
            log.warning("left to the next command: %s", exc.message)

    @contextlib.contextmanager
    def _plugged(self, uuid: str, volume: Volume, *, readonly: bool) -> Iterator[None]:
        target = free_target(self._hypervisor.xml(uuid))
        xml = disk_xml(volume.path, self.plan.serial, target, readonly=readonly)
        try:
            self._hypervisor.attach_device(uuid, xml)
            yield
        except BaseException:
            # The first failure is what the user is told; a child is about to be removed anyway.
            with contextlib.suppress(SevforkError):
                self._unplug(uuid, xml, target)
            raise
        self._unplug(uuid, xml, target)

    def _unplug(self, uuid: str, xml: str, target: str) -> None:
        if has_target(self._hypervisor.xml(uuid), target):
            self._hypervisor.detach_disk(uuid, xml, target, _DETACH_TIMEOUT_S)

    def _telling(self, who: str) -> Callable[[protocol.Progress], None]:
        def tell(progress: protocol.Progress) -> None:
            self._tell(who, progress.phase, progress.done, progress.total)

        return tell

    def _tell(self, who: str, phase: str, done: int = 0, total: int = 0) -> None:
        if self._phases.get(who) != phase:
            self._phases[who] = phase
            log.debug("%s, phase: %s", who, phase)
        self._watch(who, phase, done, total)

    def _abandon(self) -> None:
        """The OFFERs would die by themselves in time, and with the parent."""
        client = AgentClient(self.parent.pipe, None)
        deadline = time.monotonic() + _UNDO_TIMEOUT_S
        client.ask(protocol.Abandon(self.captured.fork_id), protocol.Done, deadline=deadline)

    def _launch(self, index: int, undo: contextlib.ExitStack) -> GuestSpec:
        """Define and start the child that the OFFER with this index is for."""
        self._tell(self.plan.names[index], "launch")
        self._check_cancelled()
        for domain in self.plan.replaced:
            if domain.name == self.plan.names[index]:
                remove_domain(self._hypervisor, domain)
        spec = self.child(index)
        undo.callback(remove_made, self._hypervisor, spec)
        self._hypervisor.define(domain_xml(spec))
        self._hypervisor.start(spec.uuid)
        return spec

    def child(self, index: int) -> GuestSpec:
        """The child's domain, launched like its parent, its configuration naming its OFFER."""
        sketch = sketch_child(self.plan, self.plan.names[index], str(uuids.uuid4()))
        metadata = replace(sketch.metadata, fork_id=self.captured.fork_id.hex(), index=index)
        log_path = self._hypervisor.storage.path_of(metadata.volumes[0])
        sketch = replace(sketch, console_log=log_path, metadata=metadata)
        return self.launched_as(sketch, child_config(self.captured.offers[index]))

    def launched_as(self, spec: GuestSpec, config: LaunchConfig) -> GuestSpec:
        """The domain with the launch configuration that its processor is to sign."""
        if spec.hardware is not None:
            config_hash = launch_config_hash(spec.metadata.technology, config.encode())
            return replace(spec, hardware=spec.hardware.with_config_hash(config_hash))
        state = launched(
            functools.partial(image_volumes.sha384, self._hypervisor.storage),
            spec.boot,
            vcpus=spec.vcpus,
            cpu_model=spec.metadata.cpu_model,
            config=config,
        )
        return replace(spec, metadata=replace(spec.metadata, processor=state))

    def _open_child(self, spec: GuestSpec, undo: contextlib.ExitStack) -> AgentClient:
        self._tell(spec.name, "boot")
        agent = self._open(spec, undo)
        agent.wait_for_agent(self.deadline)
        config = self.configuration(spec)
        agent.ask(protocol.Configure(config.encode()), protocol.Status, deadline=self.deadline)
        return agent

    def configuration(self, spec: GuestSpec) -> LaunchConfig:
        """What the child is told that it was launched as; its hardware has signed the hash."""
        return child_config(self.offer_of(spec))

    def offer_of(self, spec: GuestSpec) -> bytes:
        return self.captured.offers[spec.metadata.index or 0]

    def _hand_over(self, index: int, spec: GuestSpec, agent: AgentClient) -> protocol.Restored:
        """Relay the handshake, and let the child restore."""
        self._tell(spec.name, "handshake")
        joining = agent.ask(
            protocol.Offer(self.offer_of(spec)), protocol.Joining, deadline=self.deadline
        )
        join = protocol.Join(self.captured.fork_id, index, joining.join)
        granted = self._ask_parent(join, protocol.Granted)
        with self._plugged(spec.uuid, self.volume, readonly=True):
            restored = agent.ask(
                protocol.Restore(granted.grant, self.plan.serial),
                protocol.Restored,
                deadline=self.deadline,
                on_progress=self._telling(spec.name),
            )
        self._tell_parent(index, restored)
        return restored

    def _tell_parent(self, index: int, restored: protocol.Restored) -> None:
        fork_id = self.captured.fork_id
        self._ask_parent(protocol.Confirm(fork_id, index, restored.confirm), protocol.Done)
        for event in restored.events:
            self._ask_parent(protocol.Event(fork_id, index, event), protocol.Done)

    def _release(self, spec: GuestSpec) -> tuple[PublishedPort, ...]:
        """Plug the network cable in and publish the ports; the guest has raised its own end."""
        self._hypervisor.set_link(spec.uuid, up=True)
        return tuple(publish(self._hypervisor, spec.uuid, wish) for wish in self.plan.publish)

    def _finish(self, spec: GuestSpec, ports: tuple[PublishedPort, ...], generation: int) -> None:
        metadata = replace(
            spec.metadata, phase=Phase.READY, maker=None, ports=ports, generation=generation
        )
        self._hypervisor.set_metadata(spec.uuid, metadata_xml.write(metadata))

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled("interrupted")


def child_config(offer: bytes) -> LaunchConfig:
    """The launch configuration of the one child that an OFFER is for; the owner is the parent's."""
    owner = LaunchConfig.decode(Offer.decode(offer).launch_config).owner
    return LaunchConfig(Role.CHILD, owner, hashlib.sha384(offer).digest())


def run_fork(
    hypervisor: Hypervisor, plan: ForkPlan, watch: Watcher, cancelled: threading.Event
) -> ForkOutcome:
    """The whole fork. Raises if no child came to be; else the outcome has a result for each."""
    with Fork(hypervisor, plan, watch, cancelled) as fork:
        captured = fork.capture()
        capture_s = fork.elapsed_s
        children = _make_children(fork, hypervisor.facts().cpus, cancelled)
    if all(child.error for child in children) and children[0].error:
        raise children[0].error
    return ForkOutcome(
        parent=plan.domain.name,
        parent_uuid=plan.domain.uuid,
        technology=plan.spec.metadata.technology,
        accelerator=plan.spec.accelerator,
        fork_id=captured.fork_id.hex(),
        pause_ms=captured.pause_ms,
        capture_s=capture_s,
        state_bytes=captured.state_bytes,
        sealed_bytes=captured.sealed_bytes,
        children=children,
    )


def _make_children(fork: Fork, cpus: int, cancelled: threading.Event) -> tuple[ForkedChild, ...]:
    """A few at a time, so that a wide fork does not bring the host down."""
    count = len(fork.plan.names)
    with ThreadPoolExecutor(max_workers=min(count, max(2, cpus))) as pool:
        futures = [pool.submit(_attempt, fork, index) for index in range(count)]
        try:
            return tuple(_result(future) for future in futures)
        except BaseException:
            cancelled.set()
            for future in futures:
                future.cancel()
            raise


def _result(future: Future[ForkedChild]) -> ForkedChild:
    # In slices: a wait without a timeout could not be interrupted by a signal on every platform.
    while True:
        with contextlib.suppress(TimeoutError):
            return future.result(timeout=0.5)


def _attempt(fork: Fork, index: int) -> ForkedChild:
    name = fork.plan.names[index]
    try:
        return fork.make_child(index)
    except ChannelClosed as exc:
        error: SevforkError = RolledBack(
            f"'{name}' ended before it was ready and was removed: {exc.message}", hint=exc.hint
        )
        error.__cause__ = exc
    except SevforkError as exc:
        error = exc
    except Exception as exc:
        # One child's trouble is that child's: its siblings live, and it is told as what it is.
        error = SevforkError(f"unexpected: {type(exc).__name__}: {exc}")
        error.__cause__ = exc
    log.debug("child '%s' failed", name, exc_info=error)
    return ForkedChild(name, "", error=error)
