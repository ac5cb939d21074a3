"""Talking to the agent of a VM, which other commands may be doing as well."""

from __future__ import annotations

import contextlib

from sevfork.domain.spec import GuestSpec
from sevfork.host.agent_client import AgentClient
from sevfork.host.hypervisor import ChannelBusy
from sevfork.lifecycle.job import Job
from sevfork.simulated.launch import simulated_report

_BUSY_POLL_S = 0.3


def open_agent(job: Job, spec: GuestSpec) -> AgentClient:
    """The VM's agent, as soon as no other command holds its channel; to be closed by the caller.

    Raises TimedOut, Cancelled, WrongState when the VM has gone.
    """
    for _ in job.poll(_BUSY_POLL_S, f"another command keeps the agent of '{spec.name}'"):
        with contextlib.suppress(ChannelBusy):
            channel = job.hypervisor.open_channel(spec.uuid)
            return AgentClient(channel, simulated_report(spec.metadata), job.cancelled)
        job.watch(spec.name, "waiting for another command")
    raise AssertionError("a poll ends with TimedOut")
