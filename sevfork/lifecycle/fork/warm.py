"""A fork's warm children: taken from the pool, called, activated, let onto the network."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from sevfork.domain import metadata_xml
from sevfork.domain.metadata import Metadata, Phase, PublishedPort
from sevfork.domain.spec import GuestSpec
from sevfork.domain.xml import spec_from_xml
from sevfork.errors import SevforkError
from sevfork.host import maker
from sevfork.host.agent_client import AgentClient
from sevfork.host.hypervisor import Hypervisor
from sevfork.lifecycle.agents import greet_agent
from sevfork.lifecycle.fork.capture import Capture, OpenFork
from sevfork.lifecycle.fork.child import ForkedChild, release, tell_parent, telling_why
from sevfork.lifecycle.fork.plan import ForkPlan
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.parent import telling
from sevfork.lifecycle.remove import remove_made
from sevfork.lifecycle.snapshot.volume import plugged_snapshot, unplug
from sevfork.lifecycle.storage_room import naming_the_pool
from sevfork.lifecycle.undo import Undo
from sevfork.lifecycle.warm.find import WarmVm, as_warm, warm_children
from sevfork.wire import protocol

# The pool may just be bringing it up to date.
_BUSY_S = 3.0


@dataclass(frozen=True)
class TakenChild:
    """A warm child that this fork has taken: its channel is held, and no other fork sees it."""

    warm: WarmVm
    spec: GuestSpec
    agent: AgentClient


def take_warm(job: Job, plan: ForkPlan, undo: Undo) -> tuple[TakenChild, ...]:
    """As many warm children as the fork wants and there are; given back when it fails."""
    if plan.request.cold or plan.request.name is not None:
        return ()
    snapshot = plugged_snapshot(job.hypervisor, plan.spec.uuid)
    taken: list[TakenChild] = []
    for child in warm_children(job.hypervisor, plan.spec.uuid):
        fits = snapshot is not None and child.warmth.serial == snapshot.serial
        if fits and not child.is_stale and len(taken) < plan.request.count:
            taken += _take(job, child, undo)
    return tuple(taken)


def _take(job: Job, child: WarmVm, undo: Undo) -> list[TakenChild]:
    """Empty where another fork, or the pool, was quicker."""
    hypervisor, uuid = job.hypervisor, child.domain.uuid
    try:
        spec = spec_from_xml(hypervisor.xml(uuid))
        agent = greet_agent(replace(job, deadline=job.deadline.within(_BUSY_S)), spec)
    except SevforkError:
        job.check_cancelled()
        return []
    undo.at_end(agent.close)
    # Whoever holds the channel decides; what was read before may have changed.
    now = as_warm(hypervisor.find(uuid))
    if now is None:
        return []
    undo.on_failure(_give_back, hypervisor, now)
    forming = replace(now.metadata, phase=Phase.FORMING, maker=maker.this_process())
    hypervisor.set_metadata(uuid, metadata_xml.write(forming))
    return [TakenChild(now, replace(spec, metadata=forming), agent)]


def _give_back(hypervisor: Hypervisor, child: WarmVm) -> None:
    """To the pool; one that was removed meanwhile cannot be."""
    with contextlib.suppress(SevforkError):
        hypervisor.set_metadata(child.domain.uuid, metadata_xml.write(child.metadata))


def activate_child(job: Job, fork: OpenFork, taken: TakenChild, undo: Undo) -> ForkedChild:
    """Let it be a child of this fork, when that has captured; removed when anything fails then."""
    spec, hypervisor, capture = taken.spec, job.hypervisor, fork.capture(job)
    with Undo() as own:
        own.on_failure(remove_made, hypervisor, spec)
        with telling_why(job, spec):
            called, restored = _activate(job, fork, capture, taken)
            ports = release(job, fork.plan, spec)
            ready_s = job.elapsed_s
            tell_parent(fork.parent, taken.warm.fork_id, taken.warm.index, restored)
        _finish(hypervisor, fork, taken, called, restored, ports)
        unplug(hypervisor, spec.uuid, capture.volume.path)
        undo.on_failure(remove_made, hypervisor, spec)
    job.watch(spec.name, "ready")
    return ForkedChild(
        name=spec.name,
        uuid=spec.uuid,
        ports=ports,
        generation=restored.generation,
        ready_s=ready_s,
        restore_ms=restored.restore_ms,
        warm=True,
    )


def _activate(
    job: Job, fork: OpenFork, capture: Capture, taken: TakenChild
) -> tuple[protocol.Called, protocol.Restored]:
    """CALL, ANSWER, ACTIVATE: relayed, and the child restores."""
    agent, parent, warm = taken.agent, fork.parent, taken.warm
    job.watch(taken.spec.name, "handshake")
    called = parent.ask(protocol.Call(warm.fork_id, warm.index, fork.fork_id), protocol.Called)
    answering = agent.ask(
        protocol.RelayCall(called.call), protocol.Answering, deadline=job.deadline
    )
    answer = protocol.RelayAnswer(warm.fork_id, warm.index, answering.answer)
    activated = parent.ask(answer, protocol.Activated)
    with naming_the_pool(job.hypervisor):
        restored = agent.ask(
            protocol.Activate(activated.activate, capture.serial),
            protocol.Restored,
            deadline=job.deadline,
            on_progress=telling(job, taken.spec.name),
        )
    return called, restored


def _finish(
    hypervisor: Hypervisor,
    fork: OpenFork,
    taken: TakenChild,
    called: protocol.Called,
    restored: protocol.Restored,
    ports: tuple[PublishedPort, ...],
) -> None:
    """It is a VM like any other now."""
    metadata: Metadata = replace(
        taken.spec.metadata,
        phase=Phase.READY,
        maker=None,
        warmth=None,
        ports=ports,
        generation=restored.generation,
        fork_id=fork.fork_id.hex(),
        index=called.index,
    )
    hypervisor.set_metadata(taken.spec.uuid, metadata_xml.write(metadata))
