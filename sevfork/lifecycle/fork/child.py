"""One child, made from a capture: launched, joined, restored, let onto the network."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable
from dataclasses import dataclass, replace

from sevfork.domain import metadata_xml
from sevfork.domain.metadata import Phase, PublishedPort
from sevfork.domain.spec import GuestSpec
from sevfork.domain.xml import domain_xml
from sevfork.errors import RolledBack, SevforkError, WrongState
from sevfork.handshake.launch import LaunchConfig
from sevfork.host import serial_log
from sevfork.host.agent_client import AgentClient
from sevfork.host.hypervisor import ChannelClosed
from sevfork.lifecycle.agents import open_agent
from sevfork.lifecycle.fork.capture import OpenCapture, ParentEnded, telling
from sevfork.lifecycle.fork.plan import sketch_child
from sevfork.lifecycle.fork.sealed_volume import naming_the_pool, plugged
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.launching import child_config, launched_as
from sevfork.lifecycle.ports import publish
from sevfork.lifecycle.remove import remove_domain, remove_made
from sevfork.lifecycle.undo import Undo
from sevfork.wire import protocol


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
class Choices:
    """What a host decides about a child; tests of hosts that cheat decide otherwise."""

    # The domain, before the processor measures it.
    domain: Callable[[GuestSpec], GuestSpec] = lambda spec: spec
    # OFFER -> what the child is told that it was launched as; its hardware has signed the hash.
    told: Callable[[bytes], LaunchConfig] = child_config


HONEST = Choices()


def make_child(
    job: Job, capture: OpenCapture, index: int, undo: Undo, choices: Choices = HONEST
) -> ForkedChild:
    """The child that the OFFER with this index is for; removed again when anything fails.

    Once it is ready, ``undo`` removes it if something fails later.
    """
    with Undo() as own:
        spec = _launch(job, capture, index, own, choices)
        try:
            agent = _open(job, capture, spec, own, choices)
            restored = _hand_over(job, capture, spec, agent)
            ports = _release(job, capture, spec)
        except SevforkError as exc:
            error = _told(exc, job, spec)
            serial_log.add_to(error, job.hypervisor, spec)
            if error is exc:
                raise
            raise error from exc
        _finish(job, spec, ports, restored.generation)
        undo.on_failure(remove_made, job.hypervisor, spec)
    ready_s = job.elapsed_s
    job.watch(spec.name, "ready")
    return ForkedChild(
        spec.name, spec.uuid, ports, restored.generation, ready_s, restored.restore_ms
    )


def _told(error: SevforkError, job: Job, spec: GuestSpec) -> SevforkError:
    """One error for a child that ended before it was ready, whichever call heard of it first."""
    if not isinstance(error, WrongState) or isinstance(error, ParentEnded):
        return error
    if not isinstance(error, ChannelClosed) and _is_active(job, spec):
        return error
    return RolledBack(
        f"'{spec.name}' ended before it was ready and was removed: {error.message}",
        hint=error.hint,
    )


def _is_active(job: Job, spec: GuestSpec) -> bool:
    try:
        return job.hypervisor.find(spec.uuid).state.active
    except WrongState:
        return False


def _launch(job: Job, capture: OpenCapture, index: int, undo: Undo, choices: Choices) -> GuestSpec:
    name = capture.names[index]
    job.watch(name, "launch")
    job.check_cancelled()
    for domain in capture.plan.replaced:
        if domain.name == name:
            remove_domain(job.hypervisor, domain)
    spec = child_domain(job, capture, index, choices)
    undo.on_failure(remove_made, job.hypervisor, spec)
    job.hypervisor.define(domain_xml(spec))
    job.hypervisor.start(spec.uuid)
    return spec


def child_domain(
    job: Job, capture: OpenCapture, index: int, choices: Choices = HONEST
) -> GuestSpec:
    """The child's domain, launched like its parent, its configuration naming its OFFER."""
    storage = job.hypervisor.storage
    sketch = sketch_child(capture.plan, capture.names[index], str(uuids.uuid4()))
    metadata = replace(sketch.metadata, fork_id=capture.fork_id.hex(), index=index)
    log_path = storage.path_of(metadata.volumes[0])
    spec = choices.domain(replace(sketch, console_log=log_path, metadata=metadata))
    return launched_as(storage, spec, child_config(capture.offers[index]))


def _open(
    job: Job, capture: OpenCapture, spec: GuestSpec, undo: Undo, choices: Choices
) -> AgentClient:
    """The child's agent, which knows what it was launched as."""
    job.watch(spec.name, "boot")
    agent = open_agent(job, spec)
    undo.at_end(agent.close)
    agent.wait_for_agent(job.deadline)
    step_ns = agent.clock_step_ns(job.deadline)
    config = protocol.Configure(choices.told(_offer(capture, spec)).encode(), step_ns)
    agent.ask(config, protocol.Status, deadline=job.deadline)
    return agent


def _offer(capture: OpenCapture, spec: GuestSpec) -> bytes:
    return capture.offers[_index(spec)]


def _index(spec: GuestSpec) -> int:
    return spec.metadata.index or 0


def _hand_over(
    job: Job, capture: OpenCapture, spec: GuestSpec, agent: AgentClient
) -> protocol.Restored:
    """Relay the handshake, and let the child restore."""
    job.watch(spec.name, "handshake")
    offer = protocol.RelayOffer(_offer(capture, spec))
    joining = agent.ask(offer, protocol.Joining, deadline=job.deadline)
    join = protocol.RelayJoin(capture.fork_id, _index(spec), joining.join)
    granted = capture.parent.ask(join, protocol.Granted)
    with (
        plugged(job.hypervisor, spec.uuid, capture.volume, capture.serial, readonly=True),
        naming_the_pool(job.hypervisor),
    ):
        restored = agent.ask(
            protocol.Restore(granted.grant, capture.serial),
            protocol.Restored,
            deadline=job.deadline,
            on_progress=telling(job, spec.name),
        )
    _tell_parent(capture, _index(spec), restored)
    return restored


def _tell_parent(capture: OpenCapture, index: int, restored: protocol.Restored) -> None:
    fork_id, ask = capture.fork_id, capture.parent.ask
    ask(protocol.RelayConfirm(fork_id, index, restored.confirm), protocol.Done)
    for event in restored.events:
        ask(protocol.RelayEvent(fork_id, index, event), protocol.Done)


def _release(job: Job, capture: OpenCapture, spec: GuestSpec) -> tuple[PublishedPort, ...]:
    """Plug the network cable in and publish the ports; the guest has raised its own end."""
    job.hypervisor.set_link(spec.uuid, up=True)
    return tuple(publish(job.hypervisor, spec.uuid, wish) for wish in capture.plan.publish)


def _finish(job: Job, spec: GuestSpec, ports: tuple[PublishedPort, ...], generation: int) -> None:
    metadata = replace(
        spec.metadata, phase=Phase.READY, maker=None, ports=ports, generation=generation
    )
    job.hypervisor.set_metadata(spec.uuid, metadata_xml.write(metadata))
