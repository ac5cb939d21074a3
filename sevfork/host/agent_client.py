"""The host's end of the control channel: requests to one VM's agent, one at a time.

Everything that comes back was chosen by a guest: it is decoded strictly, bounded in size, and
shown only after it was cleaned for a terminal. The simulated secure processor answers here, because
it is a library inside the host's command.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from sevfork import errors
from sevfork.closing import Closing
from sevfork.deadline import Deadline
from sevfork.host.hypervisor import Channel
from sevfork.simulated.launch import SimulatedReport
from sevfork.wire import protocol
from sevfork.wire.lines import ID_SIZE, Frame, Kind, LineDecoder
from sevfork.wire.simulated import SIMULATED_EVIDENCE

# How long a wait for bytes may last before cancellation and deadline are looked at again.
_POLL_S = 0.25
# A booting guest drops what arrives before its agent has opened the port: ask again this often.
_RETRY_S = 1.0
# QEMU can leave a connection deaf: the one after a connection that was closed while the VM was
# paused gets no word from the guest (7.2, by its trace: the port stays throttled, its watch is on
# the old socket). The next one is fine.
_DEAF_S = 4.0
# How long an agent may say nothing before its VM is looked at, each time.
SILENCE_S = 2.0
# How often a workload that is starting is asked whether it is ready.
_READY_POLL_S = 0.5

_LOOKS_AT_CLOCK = 5

_Reply = TypeVar("_Reply", bound=protocol.Message)
OnProgress = Callable[[protocol.Progress], None]


class Cancelled(errors.SevforkError):
    """Another part of the same command failed or was interrupted."""


class AgentClient(Closing):
    """Asks one agent; ``simulated_report`` turns 64 bytes of report data into evidence, or is None.

    ``on_silence`` is called every few seconds in which nothing arrives, and raises where waiting on
    makes no sense: the VM is paused, or the hypervisor has gone. ``reopen`` gives a new channel in
    place of one that is closed. ``vm`` is what the VM is called in hints.
    Safe to use from several threads: requests wait for each other.
    """

    def __init__(
        self,
        channel: Channel,
        simulated_report: SimulatedReport | None,
        cancelled: threading.Event | None = None,
        on_silence: Callable[[], None] = lambda: None,
        reopen: Callable[[], Channel] | None = None,
        vm: str = "VM",
    ) -> None:
        self.channel = channel
        self._reopen, self._vm = reopen, vm
        self._simulated_report = simulated_report
        self._cancelled = cancelled or threading.Event()
        self._on_silence = on_silence
        self._silent = Deadline.after(SILENCE_S)
        self._decoder = LineDecoder()
        self._lock = threading.Lock()

    def ask(
        self,
        request: protocol.Message,
        reply_type: type[_Reply],
        *,
        deadline: Deadline,
        on_progress: OnProgress | None = None,
    ) -> _Reply:
        """The reply to a request; raises the agent's error, TimedOut, or NotAuthentic."""
        frame = Frame(Kind.REQUEST, os.urandom(ID_SIZE), protocol.encode(request))
        with self._lock:
            self.channel.send(frame.encode_line())
            reply = self._await_reply(frame.request_id, deadline, on_progress)
        if not isinstance(reply, reply_type):
            raise errors.NotAuthentic("the agent answered with another kind of message")
        return reply

    def wait_for_agent(self, deadline: Deadline) -> protocol.Status:
        """The first status of an agent that may still be booting, or not be heard at first."""
        deaf = Deadline.after(_DEAF_S)
        while True:
            try:
                attempt = deadline.within(_RETRY_S)
                return self.ask(protocol.GetStatus(), protocol.Status, deadline=attempt)
            except errors.TimedOut:
                deadline.check(
                    "no agent answered in the VM",
                    hint="is it a guest built by 'sevfork guest build'? see its serial log",
                )
                if deaf.passed:
                    self._open_anew()
                    deaf = Deadline.after(_DEAF_S)

    def clock_step_ns(self, deadline: Deadline) -> int:
        """How far the guest's wall clock is behind the host's, by the quickest of some looks."""
        return min(self._look_at_clock(deadline) for _ in range(_LOOKS_AT_CLOCK))[1]

    def _look_at_clock(self, deadline: Deadline) -> tuple[int, int]:
        """How long it took, which bounds twice the error, and how far the guest is behind."""
        before = time.time_ns()
        clock = self.ask(protocol.ReadClock(), protocol.Clock, deadline=deadline)
        after = time.time_ns()
        return after - before, (before + after) // 2 - clock.wall_ns

    def wait_until_ready(
        self, deadline: Deadline, on_phase: Callable[[protocol.Status], None] | None = None
    ) -> protocol.Status:
        """Poll the status until the workload is ready; raises when it failed."""
        while True:
            status = self.ask(protocol.GetStatus(), protocol.Status, deadline=deadline)
            if on_phase:
                on_phase(status)
            if status.phase is protocol.WorkloadPhase.READY:
                return status
            if status.phase is protocol.WorkloadPhase.FAILED:
                raise errors.RefusedByGuest(
                    f"the workload failed: {protocol.clean(status.detail)}",
                    printed=protocol.clean_lines(status.printed),
                )
            self._check(deadline, f"the workload was still '{status.phase}'")
            self._cancelled.wait(min(_READY_POLL_S, deadline.left_s))

    def _open_anew(self) -> None:
        if self._reopen is not None:
            with self._lock:
                self.channel.close()
                self.channel, self._decoder = self._reopen(), LineDecoder()

    def undisturbed(self) -> AgentClient:
        """The same agent, for what is to be asked even when the command was cancelled."""
        return AgentClient(
            self.channel, self._simulated_report, on_silence=self._on_silence, vm=self._vm
        )

    def close(self) -> None:
        self.channel.close()

    def _await_reply(
        self, request_id: bytes, deadline: Deadline, on_progress: OnProgress | None
    ) -> protocol.Reply:
        while True:
            for frame in self._frames(deadline):
                if frame.kind == SIMULATED_EVIDENCE and self._simulated_report:
                    self._answer_evidence(frame, self._simulated_report)
                elif frame.request_id != request_id:
                    continue  # an answer to a host command that has gone away
                elif frame.kind == Kind.REPLY:
                    return protocol.decode_reply(frame.payload)
                elif frame.kind == Kind.FAILURE:
                    raise protocol.decode_failure(frame.payload, self._vm)
                elif frame.kind == Kind.PROGRESS and on_progress:
                    on_progress(protocol.decode_progress(frame.payload))

    def _frames(self, deadline: Deadline) -> list[Frame]:
        self._check(deadline, "the agent did not answer in time")
        arrived = self.channel.receive(min(_POLL_S, deadline.left_s))
        if arrived or self._silent.passed:
            self._silent = Deadline.after(SILENCE_S)
            if not arrived:
                self._on_silence()
        return self._decoder.feed(arrived)

    def _check(self, deadline: Deadline, message: str) -> None:
        if self._cancelled.is_set():
            raise Cancelled("interrupted")
        deadline.check(message)

    def _answer_evidence(self, frame: Frame, simulated_report: SimulatedReport) -> None:
        evidence = simulated_report(frame.payload)
        self.channel.send(Frame(SIMULATED_EVIDENCE, frame.request_id, evidence).encode_line())
