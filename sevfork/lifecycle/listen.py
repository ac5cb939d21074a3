"""Asking a VM what has happened to it: a short look each time, so that others get its agent too."""

from __future__ import annotations

from dataclasses import dataclass, field

from sevfork.deadline import Deadline
from sevfork.domain.spec import GuestSpec
from sevfork.errors import HypervisorUnreachable, Lost, SevforkError, WrongState
from sevfork.host.agent_client import Cancelled
from sevfork.host.hypervisor import ChannelBusy, ChannelClosed, DomainState, Hypervisor
from sevfork.lifecycle.agents import agent_on
from sevfork.lifecycle.job import Job
from sevfork.wire import protocol

_ANSWER_S = 10.0


@dataclass
class Ear:
    """Listens to one VM. It is lost when it ends, or says nothing for ``lost_after_s``.

    Nothing of use is nothing: an agent that answers with an error, or with what is no answer, is a
    guest's doing, and must not end a command that listens to others as well.
    """

    spec: GuestSpec
    lost_after_s: float
    _lost: Deadline | None = field(default=None, init=False)

    def hear(self, job: Job) -> protocol.Life | None:
        """All it says of itself, or None if it says nothing now. Raises Lost, which is a guess.

        And HypervisorUnreachable, Cancelled.
        """
        try:
            life = life_of(job, self.spec)
        except (Lost, HypervisorUnreachable, Cancelled):
            raise
        except SevforkError as exc:
            if not job.deadline.passed:
                self._miss(exc)
            return None
        self._lost = None
        return life

    def _miss(self, why: SevforkError) -> None:
        self._lost = self._lost or Deadline.after(self.lost_after_s)
        if self._lost.passed:
            silence = f"its agent said nothing of use for {self.lost_after_s:g} s"
            raise Lost(f"'{self.spec.name}' is lost: {silence} ({why.message})") from why


def life_of(job: Job, spec: GuestSpec) -> protocol.Life | None:
    """None while another command has its agent, and while it is paused: neither is silence.

    Raises Lost when there is no such guest any more, TimedOut when its agent does not answer.
    """
    if _require_there(job.hypervisor, spec) is not DomainState.RUNNING:
        return None
    try:
        agent = agent_on(job, spec, job.hypervisor.open_channel(spec.uuid))
    except (ChannelBusy, ChannelClosed):
        return None
    with agent:
        deadline = job.deadline.within(_ANSWER_S)
        try:
            agent.wait_for_agent(deadline)
            return agent.ask(protocol.Events(), protocol.Life, deadline=deadline)
        except ChannelClosed:
            return None  # the next look finds out why


def _require_there(hypervisor: Hypervisor, spec: GuestSpec) -> DomainState:
    """Its state. Raises Lost."""
    try:
        state = hypervisor.find(spec.uuid).state
    except WrongState as exc:
        raise Lost(f"'{spec.name}' is lost: its VM was removed") from exc
    if not state.active:
        raise Lost(f"'{spec.name}' is lost: its VM is {state.value}")
    return state
