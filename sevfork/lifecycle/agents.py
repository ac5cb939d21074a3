"""Talking to the agent of a VM, which other commands may be doing as well."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from sevfork.deadline import Deadline
from sevfork.domain.spec import GuestSpec
from sevfork.host.agent_client import AgentClient
from sevfork.host.hypervisor import Channel, ChannelBusy, DomainState
from sevfork.lifecycle.find import cannot
from sevfork.lifecycle.job import Job
from sevfork.simulated.launch import simulated_report

_BUSY_POLL_S = 0.3
# A VM that is paused for a moment (a backup, an admin's look) does not end what was begun.
PAUSE_S = 8.0
_ANSWER_TIMEOUT_S = 30.0


def open_agent(job: Job, spec: GuestSpec) -> AgentClient:
    """The VM's agent, as soon as no other command holds its channel; to be closed by the caller.

    Raises TimedOut, Cancelled, WrongState when the VM has gone.
    """
    return agent_on(job, spec, _channel(job, spec))


def agent_on(job: Job, spec: GuestSpec, channel: Channel) -> AgentClient:
    """The VM's agent at the other end of its channel; to be closed by the caller."""
    vigil = _Vigil(job, spec)
    return AgentClient(
        channel,
        simulated_report(spec.metadata),
        job.cancelled,
        vigil.look,
        reopen=lambda: _channel(job, spec),
        vm=spec.name,
    )


def greet_agent(job: Job, spec: GuestSpec) -> AgentClient:
    """The same for an agent that should be there: it has answered once. Raises TimedOut besides."""
    agent = open_agent(job, spec)
    try:
        agent.wait_for_agent(job.deadline.within(_ANSWER_TIMEOUT_S))
    except BaseException:
        agent.close()
        raise
    return agent


def _channel(job: Job, spec: GuestSpec) -> Channel:
    for _ in job.poll(_BUSY_POLL_S, f"another command keeps the agent of '{spec.name}'"):
        with contextlib.suppress(ChannelBusy):
            return job.hypervisor.open_channel(spec.uuid)
        job.watch(spec.name, "waiting for another command")
    raise AssertionError("a poll ends with TimedOut")


@dataclass
class _Vigil:
    """Looks at a VM whose agent is silent."""

    job: Job
    spec: GuestSpec
    _until: Deadline | None = None

    def look(self) -> None:
        """Raises WrongState when the VM has been unable to answer for a while.

        Raises HypervisorUnreachable when the hypervisor has gone: its channels do not always tell.
        """
        domain = self.job.hypervisor.find(self.spec.uuid)
        if domain.state is DomainState.RUNNING:
            self._until = None
            return
        self.job.watch(self.spec.name, domain.state.value)
        self._until = self._until or Deadline.after(PAUSE_S)
        if self._until.passed:
            raise cannot(self.job.hypervisor, domain, "its agent cannot answer")
