"""``sevfork stop``: a workload's end, asked for and waited for, and then the VM's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from sevfork.deadline import Deadline
from sevfork.domain import metadata_xml
from sevfork.domain.spec import GuestSpec
from sevfork.errors import SevforkError, TimedOut, WrongState
from sevfork.host.agent_client import AgentClient
from sevfork.lifecycle.agents import greet_agent
from sevfork.lifecycle.farewell import shut_down, take_leave
from sevfork.lifecycle.job import Job
from sevfork.wire import protocol
from sevfork.wire.protocol import LifeEvent, WorkloadPhase

_POLL_S = 0.3
# A workload that was ended by force is gone at once, but on a machine that has much else to do.
_KILL_S = 20.0
_OFF_S = 10.0


@dataclass(frozen=True)
class Stopped:
    """``returncode``: as the workload ended, or None: it had not begun, or nobody knows.

    ``forced``: it did not heed its stop signal in time.
    """

    name: str
    uuid: str
    returncode: int | None
    forced: bool


def stop(job: Job, spec: GuestSpec, timeout_s: float, note: Callable[[str], None]) -> Stopped:
    """Signal the workload, force its end after ``timeout_s``, switch the VM off; it stays defined.

    Raises WrongState, TimedOut; then the VM runs on, and may be stopped again.
    """
    with greet_agent(job, spec) as agent:
        job.watch(spec.name, "stopping")
        life, forced = _end_workload(job, agent, timeout_s)
    returncode = _returncode(life)
    _record(job, spec, returncode)
    job.watch(spec.name, "switching off")
    take_leave(job, [job.hypervisor.find(spec.uuid)], note)
    _switch_off(job, spec)
    job.watch(spec.name, "removed")
    return Stopped(spec.name, spec.uuid, returncode, forced)


def _end_workload(job: Job, agent: AgentClient, timeout_s: float) -> tuple[protocol.Life, bool]:
    for force, wait_s in ((False, timeout_s), (True, _KILL_S)):
        life = agent.ask(protocol.StopWorkload(force), protocol.Life, deadline=job.deadline)
        waiting = replace(job, deadline=job.deadline.within(wait_s))
        with suppress(TimedOut):
            for _ in waiting.poll(_POLL_S, "it did not end"):
                if _is_over(life):
                    return life, force
                life = agent.ask(protocol.Events(), protocol.Life, deadline=job.deadline)
    raise TimedOut("the workload could not be ended", hint="sevfork rm '{vm}' ends the VM")


def _is_over(life: protocol.Life) -> bool:
    """It has ended, or there is none that could."""
    ended = any(each.event is LifeEvent.EXITED for each in life.events)
    return ended or life.phase in (WorkloadPhase.FAILED, WorkloadPhase.UNCONFIGURED)


def _returncode(life: protocol.Life) -> int | None:
    exits = (each.returncode for each in life.events if each.event is LifeEvent.EXITED)
    return next(exits, None)


def _record(job: Job, spec: GuestSpec, returncode: int | None) -> None:
    """So that it can be listed when there is no agent any more."""
    metadata = replace(spec.metadata, ended=returncode)
    job.hypervisor.set_metadata(spec.uuid, metadata_xml.write(metadata))


def _switch_off(job: Job, spec: GuestSpec) -> None:
    """By its agent, which tells its last word; by force where it does not go."""
    if job.hypervisor.find(spec.uuid).state.active:
        with suppress(SevforkError):
            shut_down(job, job.hypervisor.find(spec.uuid))
    hasty = replace(job, deadline=Deadline.after(_OFF_S))
    with suppress(TimedOut, WrongState):
        for _ in hasty.poll(_POLL_S, "it was not off in time"):
            if not job.hypervisor.find(spec.uuid).state.active:
                return
    job.hypervisor.destroy(spec.uuid)
