"""``sevfork logs``: what a VM's workload has printed, as far as its image lets the host read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sevfork.domain.spec import GuestSpec
from sevfork.errors import NotAuthentic
from sevfork.host.agent_client import AgentClient
from sevfork.lifecycle.agents import greet_agent
from sevfork.lifecycle.job import Job
from sevfork.wire import protocol
from sevfork.wire.protocol import LifeEvent

# A guest keeps 1 MiB. One that says it has more is not believed for longer than this.
_LIMIT_BYTES = 16 << 20
_FOLLOW_S = 1.0


AskLogs = Callable[[AgentClient, protocol.ReadLogs, Job], protocol.Logs]
"""Asks an agent what was printed: as the host, or in the owner's name."""


def ask_as_host(agent: AgentClient, request: protocol.ReadLogs, job: Job) -> protocol.Logs:
    return agent.ask(request, protocol.Logs, deadline=job.deadline)


@dataclass
class Reader:
    """Reads on from ``position``, in bytes since the workload's beginning.

    ``lost_bytes`` were printed after the position that was asked for, and are not kept any more.
    """

    job: Job
    spec: GuestSpec
    position: int = 0
    lost_bytes: int = 0
    over: bool = False  # the workload has ended, and all that it printed was read
    ask: AskLogs = ask_as_host

    def news(self) -> bytes:
        """What was printed since. Raises RefusedByGuest, WrongState, TimedOut, NotAuthentic."""
        with greet_agent(self.job, self.spec) as agent:
            life = agent.ask(protocol.Events(), protocol.Life, deadline=self.job.deadline)
            ended = any(each.event is LifeEvent.EXITED for each in life.events)
            data = b"".join(self._pieces(agent))
        self.over = ended
        return data

    def follow(self) -> Iterator[bytes]:
        """What was printed since, again and again until the workload has ended."""
        for _ in () if self.over else self.job.poll(_FOLLOW_S, "the time is over"):
            yield self.news()
            if self.over:
                return

    def _pieces(self, agent: AgentClient) -> Iterator[bytes]:
        """To the end as it was at first: a workload may print faster than it is read."""
        first = self._next(agent)
        yield first.data
        while self.position < min(first.end, first.start + _LIMIT_BYTES):
            yield self._next(agent).data

    def _next(self, agent: AgentClient) -> protocol.Logs:
        request = protocol.ReadLogs(self.position, protocol.MAX_LOGS_BYTES)
        logs = self.ask(agent, request, self.job)
        self._require_next(logs)
        self.lost_bytes += logs.start - self.position
        self.position = logs.start + len(logs.data)
        return logs

    def _require_next(self, logs: protocol.Logs) -> None:
        rises = logs.start >= self.position and logs.start + len(logs.data) <= logs.end
        if not rises or (not logs.data and logs.start < logs.end):
            raise NotAuthentic("the guest's output has an impossible position")


def last_lines(data: bytes, count: int | None) -> bytes:
    """The last so many lines, or all."""
    if count is None:
        return data
    return b"".join(data.splitlines(keepends=True)[-count:]) if count else b""
