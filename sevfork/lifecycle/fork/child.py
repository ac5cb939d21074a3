"""One child of a fork: launched, joined, restored, let onto the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sevfork.domain import metadata_xml
from sevfork.domain.child import links_to_plug
from sevfork.domain.metadata import Phase, PublishedPort
from sevfork.domain.spec import GuestSpec
from sevfork.errors import RolledBack, SevforkError, WrongState
from sevfork.host import serial_log
from sevfork.host.agent_client import AgentClient
from sevfork.host.hypervisor import ChannelClosed
from sevfork.lifecycle.fork.capture import Capture, OpenFork
from sevfork.lifecycle.fork.launch import HONEST, Choices, Place, launch_child, open_child
from sevfork.lifecycle.fork.plan import ForkPlan
from sevfork.lifecycle.fork.sealed_volume import plugged
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.parent import Parent, ParentEnded, telling
from sevfork.lifecycle.ports import publish
from sevfork.lifecycle.remove import remove_made
from sevfork.lifecycle.storage_room import naming_the_pool
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
    # Held the snapshot already when the fork came.
    warm: bool = False


def make_child(
    job: Job, fork: OpenFork, index: int, undo: Undo, choices: Choices = HONEST
) -> ForkedChild:
    """The child that the OFFER with this index is for; removed again when anything fails.

    It is launched at once, and joins when the parent has captured. Once it is ready, ``undo``
    removes it if something fails later.
    """
    with Undo() as own:
        place = place_in(fork, index)
        spec = launch_child(job, fork.plan, place, own, choices)
        with telling_why(job, spec):
            agent = open_child(job, spec, place, own, choices)
            job.watch(spec.name, "waiting for the capture")
            restored = _hand_over(job, fork, fork.capture(job), spec, agent)
            ports = release(job, fork.plan, spec)
        finish(job, spec, ports, restored.generation)
        undo.on_failure(remove_made, job.hypervisor, spec)
    ready_s = job.elapsed_s
    job.watch(spec.name, "ready")
    return ForkedChild(
        spec.name, spec.uuid, ports, restored.generation, ready_s, restored.restore_ms
    )


def place_in(fork: OpenFork, index: int) -> Place:
    """The place of the child that is yet to be launched, with this number."""
    return Place(fork.names[index], fork.offers[index], fork.fork_id, index)


@contextmanager
def telling_why(job: Job, spec: GuestSpec) -> Iterator[None]:
    """What goes wrong with a child in here is told with what its serial log knows of it."""
    try:
        yield
    except SevforkError as exc:
        error = _told(exc, job, spec)
        serial_log.add_to(error, job.hypervisor, spec)
        if error is exc:
            raise
        raise error from exc


def _told(error: SevforkError, job: Job, spec: GuestSpec) -> SevforkError:
    """One error for a child that ended before it was ready, whichever call heard of it first."""
    if not isinstance(error, WrongState) or isinstance(error, ParentEnded):
        return error
    if not isinstance(error, ChannelClosed) and _is_active(job, spec):
        return error
    return RolledBack(
        f"'{spec.name}' ended before it was ready and was removed: {error.message}",
        hint=error.hint,
        printed=error.printed,
    )


def _is_active(job: Job, spec: GuestSpec) -> bool:
    try:
        return job.hypervisor.find(spec.uuid).state.active
    except WrongState:
        return False


def _hand_over(
    job: Job, fork: OpenFork, capture: Capture, spec: GuestSpec, agent: AgentClient
) -> protocol.Restored:
    """Relay the handshake, and let the child restore."""
    job.watch(spec.name, "handshake")
    index = spec.metadata.index or 0
    offer = protocol.RelayOffer(fork.offers[index])
    joining = agent.ask(offer, protocol.Joining, deadline=job.deadline)
    join = protocol.RelayJoin(fork.fork_id, index, joining.join)
    granted = fork.parent.ask(join, protocol.Granted)
    medium = plugged(
        job.hypervisor,
        spec.uuid,
        capture.volume,
        capture.serial,
        readonly=True,
        shared=capture.shared,
    )
    with medium, naming_the_pool(job.hypervisor):
        restored = agent.ask(
            protocol.Restore(granted.grant, capture.serial),
            protocol.Restored,
            deadline=job.deadline,
            on_progress=telling(job, spec.name),
        )
    tell_parent(fork.parent, fork.fork_id, index, restored)
    return restored


def tell_parent(parent: Parent, fork_id: bytes, index: int, restored: protocol.Restored) -> None:
    """Relay a child's CONFIRM and its events; ``fork_id`` and ``index`` are its OFFER's."""
    ask = parent.ask
    ask(protocol.RelayConfirm(fork_id, index, restored.confirm), protocol.Done)
    for event in restored.events:
        ask(protocol.RelayEvent(fork_id, index, event), protocol.Done)


def release(job: Job, plan: ForkPlan, spec: GuestSpec) -> tuple[PublishedPort, ...]:
    """Plug the network cable in and publish the ports; the guest has raised its own end."""
    for mac in links_to_plug(plan.xml, job.hypervisor.xml(spec.uuid)):
        job.hypervisor.set_link(spec.uuid, mac, up=True)
    return tuple(publish(job.hypervisor, spec.uuid, wish) for wish in plan.publish)


def finish(job: Job, spec: GuestSpec, ports: tuple[PublishedPort, ...], generation: int) -> None:
    """It is no longer being made."""
    metadata = replace(
        spec.metadata, phase=Phase.READY, maker=None, ports=ports, generation=generation
    )
    job.hypervisor.set_metadata(spec.uuid, metadata_xml.write(metadata))
