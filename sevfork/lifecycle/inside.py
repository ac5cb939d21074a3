"""``sevfork exec``: a command inside a running VM, its streams, and how it ends.

The VM's agent is let go of again and again: a fork that comes meanwhile is told what is in its way
at once, and does not wait for the command's end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from sevfork.deadline import Deadline
from sevfork.domain.spec import GuestSpec
from sevfork.errors import NotAuthentic, UsageError
from sevfork.host.agent_client import AgentClient
from sevfork.lifecycle.agents import greet_agent
from sevfork.lifecycle.job import Job
from sevfork.wire import protocol
from sevfork.wire.message import MAX_WORD_BYTES, MAX_WORDS
from sevfork.wire.protocol import MAX_PIECE_BYTES

# How long one command may hold the agent, and how long it then leaves it to others.
_HOLD_S, _LEAVE_S = 1.0, 0.1
_END_S = 10.0


class Input(Protocol):
    """Where a command's input comes from."""

    def read(self, most: int) -> bytes:
        """What there is now, without waiting."""

    @property
    def over(self) -> bool: ...


class NoInput:
    """It is at its end from the beginning."""

    over = True

    def read(self, most: int) -> bytes:
        return b""


@dataclass
class Inside:
    """One command; ``stdout`` and ``stderr`` take what it prints."""

    job: Job
    spec: GuestSpec
    source: Input
    stdout: Callable[[bytes], None]
    stderr: Callable[[bytes], None]
    _pending: bytes = field(default=b"", init=False)

    def run(self, argv: Sequence[str]) -> int:
        """Its exit status, or less than 0 for a signal. It is ended when this raises.

        Raises RefusedByGuest, WrongState, TimedOut, NotAuthentic.
        """
        _require_short(argv)
        with greet_agent(self.job, self.spec) as agent:
            started = protocol.ExecStart(list(argv))
            agent.ask(started, protocol.Done, deadline=self.job.deadline)
        try:
            for _ in self.job.poll(_LEAVE_S, "the command did not end in time"):
                if (returncode := self._hold()) is not None:
                    return returncode
        except BaseException:
            self._end()
            raise
        raise AssertionError("a poll ends with TimedOut")

    def _hold(self) -> int | None:
        enough = Deadline.after(_HOLD_S)
        with greet_agent(self.job, self.spec) as agent:
            while not enough.passed:
                heard = self._exchange(agent)
                if heard.returncode is not None:
                    return heard.returncode
        return None

    def _exchange(self, agent: AgentClient) -> protocol.ExecHeard:
        self._pending += self.source.read(MAX_PIECE_BYTES - len(self._pending))
        request = protocol.ExecExchange(self._pending, self.source.over)
        heard = agent.ask(request, protocol.ExecHeard, deadline=self.job.deadline)
        if heard.taken > len(self._pending):
            raise NotAuthentic("the guest has taken more input than there was")
        self._pending = self._pending[heard.taken :]
        self.stdout(heard.stdout)
        self.stderr(heard.stderr)
        return heard

    def _end(self) -> None:
        """It ends by itself a minute later where this fails."""
        brief = replace(self.job, deadline=Deadline.after(_END_S))
        with greet_agent(brief, self.spec) as agent:
            agent.undisturbed().ask(protocol.ExecEnd(), protocol.Done, deadline=brief.deadline)


def _require_short(argv: Sequence[str]) -> None:
    """Raise UsageError for what does not fit into one message."""
    size = sum(len(word.encode("utf-8", "replace")) for word in argv)
    if size > MAX_WORD_BYTES or len(argv) > MAX_WORDS:
        raise UsageError(f"a command has at most {MAX_WORDS} words and {MAX_WORD_BYTES} bytes")
