"""The parent of a fork, as a use case talks to it: its agent, its channel held meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from sevfork.deadline import Deadline
from sevfork.domain.spec import GuestSpec
from sevfork.errors import WrongState
from sevfork.host.agent_client import AgentClient
from sevfork.host.hypervisor import ChannelClosed
from sevfork.lifecycle.agents import greet_agent
from sevfork.lifecycle.job import Job
from sevfork.wire import protocol

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

    def require_ready(self) -> protocol.Status:
        """Its status, when its workload is ready to be captured. Raises WrongState."""
        return self.agent.wait_until_ready(self.job.deadline, self._require_configured)

    def _require_configured(self, status: protocol.Status) -> None:
        if status.role is None:
            raise WrongState(f"'{self.name}' was never configured by 'sevfork up'")


@contextlib.contextmanager
def parent_of(job: Job, spec: GuestSpec) -> Iterator[Parent]:
    """The VM as a parent, as soon as no other command talks to it."""
    job.watch(spec.name, "connect")
    agent = greet_agent(job, spec)
    try:
        yield Parent(spec.name, agent, job)
    finally:
        agent.close()


def telling(job: Job, who: str) -> Callable[[protocol.Progress], None]:
    """Shows an agent's progress under a VM's name."""

    def tell(progress: protocol.Progress) -> None:
        job.watch(who, progress.phase, progress.done, progress.total)

    return tell
