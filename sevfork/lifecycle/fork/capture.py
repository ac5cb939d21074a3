"""A capture of the parent: its state on a sealed volume, and an OFFER for each child.

The parent's agent keeps the OFFERs' keys in its memory for as long as the capture is open.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from sevfork.deadline import Deadline
from sevfork.errors import NotAuthentic, WrongState
from sevfork.host.agent_client import AgentClient
from sevfork.host.hypervisor import ChannelClosed, Volume
from sevfork.lifecycle.agents import open_agent
from sevfork.lifecycle.fork.plan import ForkPlan
from sevfork.lifecycle.fork.sealed_volume import make_volume, naming_the_pool, plugged, require_room
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.naming import child_names
from sevfork.lifecycle.undo import Undo
from sevfork.wire import protocol

_ANSWER_TIMEOUT_S = 30.0
_ABANDON_TIMEOUT_S = 20.0
_Reply = TypeVar("_Reply", bound=protocol.Message)


class ParentEnded(WrongState):
    """The parent ended while it was forked, which is not a child's doing."""


@dataclass(frozen=True)
class Parent:
    """The parent's agent, its channel held until the fork is over."""

    name: str
    agent: AgentClient
    job: Job

    def ask(self, request: protocol.Message, reply_type: type[_Reply]) -> _Reply:
        """Raises ParentEnded when it ends meanwhile."""
        try:
            return self.agent.ask(
                request,
                reply_type,
                deadline=self.job.deadline,
                on_progress=telling(self.job, self.name),
            )
        except ChannelClosed as exc:
            raise ParentEnded(f"the parent '{self.name}' has ended, or its channel broke") from exc

    def abandon(self, fork_id: bytes) -> None:
        """Let it forget a capture, even when we were cancelled.

        The OFFERs would die by themselves in time, and with the parent.
        """
        deadline = Deadline.after(_ABANDON_TIMEOUT_S)
        self.agent.undisturbed().ask(protocol.Abandon(fork_id), protocol.Done, deadline=deadline)


@dataclass(frozen=True)
class OpenCapture:
    """What children are made from. ``names`` and ``offers`` have one for each child, in order."""

    plan: ForkPlan
    parent: Parent
    names: tuple[str, ...]
    volume: Volume
    serial: str
    fork_id: bytes
    offers: tuple[bytes, ...]
    # How long the parent's workload stood still.
    pause_ms: float
    state_bytes: int
    sealed_bytes: int
    # Since the job began.
    ready_s: float


@contextlib.contextmanager
def captured(job: Job, plan: ForkPlan) -> Iterator[OpenCapture]:
    """Seal the parent's state into a new volume; at the end it is deleted, the OFFERs forgotten."""
    with Undo() as undo:
        job.watch(plan.domain.name, "connect")
        agent = open_agent(job, plan.spec)
        undo.at_end(agent.close)
        parent = Parent(plan.domain.name, agent, job)
        names = _names(job, plan)
        status = _require_ready(parent)
        require_room(job.hypervisor, plan, status.state_bytes)
        volume = make_volume(job.hypervisor, plan, undo)
        sealed = _seal(job, plan, parent, volume, undo)
        job.watch(parent.name, "captured")
        yield OpenCapture(
            plan=plan,
            parent=parent,
            names=names,
            volume=volume,
            serial=plan.serial,
            fork_id=sealed.fork_id,
            offers=tuple(sealed.offers),
            pause_ms=sealed.pause_ms,
            state_bytes=sealed.state_bytes,
            sealed_bytes=sealed.sealed_bytes,
            ready_s=job.elapsed_s,
        )


def _names(job: Job, plan: ForkPlan) -> tuple[str, ...]:
    """Default names anew: while we waited for the parent, another fork may have taken them."""
    request = plan.request
    if request.name is not None:
        return plan.names
    taken = {domain.name for domain in job.hypervisor.domains()}
    return tuple(child_names(plan.domain.name, None, request.count, taken))


def _require_ready(parent: Parent) -> protocol.Status:
    agent, deadline = parent.agent, parent.job.deadline
    status = agent.wait_for_agent(deadline.within(_ANSWER_TIMEOUT_S))
    if status.role is None:
        raise WrongState(f"'{parent.name}' was never configured by 'sevfork up'")
    return agent.wait_until_ready(deadline)


def _seal(
    job: Job, plan: ForkPlan, parent: Parent, volume: Volume, undo: Undo
) -> protocol.Captured:
    count = plan.request.count
    with plugged(job.hypervisor, plan.spec.uuid, volume, plan.serial, readonly=False):
        request = protocol.Capture(count, plan.serial, plan.request.token)
        with naming_the_pool(job.hypervisor):
            sealed = parent.ask(request, protocol.Captured)
        undo.best_effort(parent.abandon, sealed.fork_id)
    if len(sealed.offers) != count:
        raise NotAuthentic("the parent's agent made another number of OFFERs than was asked for")
    return sealed


def telling(job: Job, who: str) -> Callable[[protocol.Progress], None]:
    """Shows an agent's progress under a VM's name."""

    def tell(progress: protocol.Progress) -> None:
        job.watch(who, progress.phase, progress.done, progress.total)

    return tell
