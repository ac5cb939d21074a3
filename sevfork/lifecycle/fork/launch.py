"""A child's VM: launched for one OFFER, its agent told what it was launched as."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable
from dataclasses import dataclass, replace

from sevfork.domain.child import child_xml
from sevfork.domain.spec import GuestSpec
from sevfork.handshake.launch import LaunchConfig
from sevfork.host.agent_client import AgentClient
from sevfork.lifecycle.agents import open_agent
from sevfork.lifecycle.endorsing import configure
from sevfork.lifecycle.fork.plan import ForkPlan, sketch_child
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.launching import child_config, launched_as
from sevfork.lifecycle.remove import remove_domain, remove_made
from sevfork.lifecycle.undo import Undo


@dataclass(frozen=True)
class Place:
    """What one child is launched for: its OFFER, and the number of that OFFER in its fork."""

    name: str
    offer: bytes
    fork_id: bytes
    index: int


@dataclass(frozen=True)
class Choices:
    """What a host decides about a child; tests of hosts that cheat decide otherwise."""

    # The domain, before the processor measures it.
    domain: Callable[[GuestSpec], GuestSpec] = lambda spec: spec
    # OFFER -> what the child is told that it was launched as; its hardware has signed the hash.
    told: Callable[[bytes], LaunchConfig] = child_config


HONEST = Choices()


def launch_child(
    job: Job, plan: ForkPlan, place: Place, undo: Undo, choices: Choices = HONEST
) -> GuestSpec:
    """The child's VM, started; removed again when anything fails."""
    job.watch(place.name, "launch")
    job.check_cancelled()
    for domain in plan.replaced:
        if domain.name == place.name:
            remove_domain(job.hypervisor, domain)
    spec = child_domain(job, plan, place, choices)
    undo.on_failure(remove_made, job.hypervisor, spec)
    job.hypervisor.define(child_xml(plan.xml, spec))
    job.hypervisor.start(spec.uuid)
    return spec


def child_domain(job: Job, plan: ForkPlan, place: Place, choices: Choices = HONEST) -> GuestSpec:
    """The child's domain, launched like its parent, its configuration naming its OFFER."""
    storage = job.hypervisor.storage
    sketch = sketch_child(plan, place.name, str(uuids.uuid4()))
    metadata = replace(sketch.metadata, fork_id=place.fork_id.hex(), index=place.index)
    log_path = storage.path_of(metadata.volumes[0])
    spec = choices.domain(replace(sketch, console_log=log_path, metadata=metadata))
    return launched_as(storage, spec, child_config(place.offer))


def open_child(
    job: Job, spec: GuestSpec, place: Place, undo: Undo, choices: Choices = HONEST
) -> AgentClient:
    """The child's agent, which knows what it was launched as."""
    job.watch(spec.name, "boot")
    agent = open_agent(job, spec)
    undo.at_end(agent.close)
    agent.wait_for_agent(job.deadline)
    configure(job, spec, agent, choices.told(place.offer))
    return agent
