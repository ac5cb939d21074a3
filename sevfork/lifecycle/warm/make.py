"""One warm child: launched for a reserved place, attested, granted the snapshot, kept current."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace

from sevfork.domain import metadata_xml
from sevfork.domain.metadata import Phase, Warmth
from sevfork.domain.spec import GuestSpec
from sevfork.domain.xml import spec_from_xml
from sevfork.errors import NotAuthentic, SevforkError
from sevfork.host.agent_client import AgentClient
from sevfork.lifecycle.agents import greet_agent
from sevfork.lifecycle.endorsing import endorse
from sevfork.lifecycle.fork.child import telling_why
from sevfork.lifecycle.fork.launch import Place, launch_child, open_child
from sevfork.lifecycle.fork.plan import ForkPlan
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.parent import Parent, parent_of, telling
from sevfork.lifecycle.remove import remove_domain
from sevfork.lifecycle.snapshot.volume import PluggedSnapshot, plug
from sevfork.lifecycle.storage_room import naming_the_pool
from sevfork.lifecycle.undo import Undo
from sevfork.lifecycle.warm.find import WarmVm, as_warm
from sevfork.wire import protocol


@dataclass(frozen=True)
class Freshness:
    """How long a warm child may go without an update before it is not used any more."""

    max_lag_s: float

    def warmth(self, serial: str, held_bytes: int, since: int | None = None) -> Warmth:
        now = int(time.time())
        return Warmth(serial, since or now, now, int(now + self.max_lag_s), held_bytes)


def make_warm(job: Job, plan: ForkPlan, snapshot: PluggedSnapshot, freshness: Freshness) -> str:
    """A warm child with the plan's name; removed again when anything fails. Returns its name.

    The parent's channel is held only while it is asked something: forks go on meanwhile.
    """
    with Undo() as undo:
        with parent_of(job, plan.spec) as parent:
            endorse(job, plan.spec, parent.agent)
            place = _reserve(parent, plan)
        undo.on_failure(_give_up, job, plan.spec, place.fork_id)
        spec = launch_child(job, plan, place, undo)
        with telling_why(job, spec):
            agent = open_child(job, spec, place, undo)
            held = _grant(job, plan, place, spec, agent, snapshot)
        _write(job, spec, freshness.warmth(snapshot.serial, held.held_bytes))
    job.watch(spec.name, "warm")
    return spec.name


def refresh(job: Job, parent: GuestSpec, child: WarmVm, freshness: Freshness) -> None:
    """Bring it to where the snapshot is. One that a fork has taken meanwhile is left to that."""
    spec = spec_from_xml(job.hypervisor.xml(child.domain.uuid))
    agent = greet_agent(job, spec)
    with contextlib.closing(agent):
        if as_warm(job.hypervisor.find(child.domain.uuid)) is None:
            return
        endorse(job, spec, agent)
        request = protocol.Refresh(child.fork_id, child.index)
        with parent_of(job, parent) as asked:
            refreshed = asked.ask(request, protocol.Refreshed)
        with naming_the_pool(job.hypervisor):
            held = agent.ask(
                protocol.Absorb(refreshed.update, child.warmth.serial),
                protocol.Held,
                deadline=job.deadline,
                on_progress=telling(job, spec.name),
            )
        since = child.warmth.since
        _write(job, spec, freshness.warmth(child.warmth.serial, held.held_bytes, since))


def remove_warm(job: Job, parent: GuestSpec, child: WarmVm) -> None:
    """End it, and let its parent forget its place."""
    _give_up(job, parent, child.fork_id)
    remove_domain(job.hypervisor, child.domain)


def _reserve(parent: Parent, plan: ForkPlan) -> Place:
    reserved = parent.ask(
        protocol.Reserve(1, warm=True, token=plan.request.token), protocol.Reserved
    )
    if len(reserved.offers) != 1:
        raise NotAuthentic("the parent's agent made another number of OFFERs than was asked for")
    return Place(plan.names[0], reserved.offers[0], reserved.fork_id, 0)


def _give_up(job: Job, parent: GuestSpec, fork_id: bytes) -> None:
    """Let the parent forget a reserved place; it does so by itself in time."""
    with contextlib.suppress(SevforkError), parent_of(job, parent) as asked:
        asked.abandon(fork_id)


def _grant(
    job: Job,
    plan: ForkPlan,
    place: Place,
    spec: GuestSpec,
    agent: AgentClient,
    snapshot: PluggedSnapshot,
) -> protocol.Held:
    """The handshake; then the child unseals the snapshot, from a volume that stays plugged in."""
    job.watch(spec.name, "handshake")
    offer = protocol.RelayOffer(place.offer)
    joining = agent.ask(offer, protocol.Joining, deadline=job.deadline)
    join = protocol.RelayJoin(place.fork_id, place.index, joining.join)
    with parent_of(job, plan.spec) as parent:
        granted = parent.ask(join, protocol.Granted)
    plug(job.hypervisor, spec.uuid, snapshot, readonly=True)
    with naming_the_pool(job.hypervisor):
        held = agent.ask(
            protocol.Hold(granted.grant, snapshot.serial),
            protocol.Held,
            deadline=job.deadline,
            on_progress=telling(job, spec.name),
        )
    confirm = protocol.RelayConfirm(place.fork_id, place.index, held.confirm)
    with parent_of(job, plan.spec) as parent:
        parent.ask(confirm, protocol.Done)
    return held


def _write(job: Job, spec: GuestSpec, warmth: Warmth) -> None:
    """Its maker stays in there: when that is dead, nobody keeps the child current."""
    metadata = replace(spec.metadata, phase=Phase.WARM, warmth=warmth)
    job.hypervisor.set_metadata(spec.uuid, metadata_xml.write(metadata))
