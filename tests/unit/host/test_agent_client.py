"""The host's client against an agent that answers, lies, dawdles or floods."""

import threading
import time
from collections.abc import Callable

import msgspec
import pytest

from sevfork import errors
from sevfork.deadline import Deadline
from sevfork.host import agent_client
from sevfork.host.agent_client import AgentClient, Cancelled
from sevfork.wire import protocol
from sevfork.wire.lines import Frame, Kind, LineDecoder
from sevfork.wire.simulated import SIMULATED_EVIDENCE

DONE = protocol.encode(protocol.Done())
STATUS = protocol.encode(
    protocol.Status(
        version="0",
        technology="simulated",
        phase=protocol.WorkloadPhase.READY,
        detail="",
        uncapturable=None,
        role="root",
        generation=0,
        instance_key=bytes(32),
        policy_digest=bytes(32),
        fork_policy="host",
        workload="redis",
        state_bytes=0,
    )
)


class FakeAgent:
    """A channel with an agent at its end: ``answer`` maps each frame to the bytes it causes."""

    def __init__(self, answer: Callable[[Frame], bytes]) -> None:
        self._answer = answer
        self._decoder = LineDecoder()
        self._arrived: list[bytes] = []
        self.heard: list[Frame] = []
        self.closed = False

    def send(self, data: bytes, timeout_s: float = 30.0) -> None:
        for frame in self._decoder.feed(data):
            self.heard.append(frame)
            self._arrived.append(self._answer(frame))

    def receive(self, timeout_s: float) -> bytes:
        if self._arrived:
            return self._arrived.pop(0)
        time.sleep(min(timeout_s, 0.01))
        return b""

    def close(self) -> None:
        self.closed = True


def reply(frame: Frame, payload: bytes = DONE, kind: int = Kind.REPLY) -> bytes:
    return Frame(kind, frame.request_id, payload).encode_line()


def ask(
    agent: FakeAgent,
    within_s: float = 60,
    on_progress: Callable[[protocol.Progress], None] | None = None,
) -> protocol.Done:
    client, deadline = AgentClient(agent, None), Deadline.after(within_s)
    request = protocol.Abandon(bytes(16))
    return client.ask(request, protocol.Done, deadline=deadline, on_progress=on_progress)


def test_a_request_is_answered() -> None:
    assert ask(FakeAgent(reply)) == protocol.Done()


def test_answers_to_somebody_else_and_garbage_are_passed_over() -> None:
    stale = Frame(Kind.REPLY, b"another!", DONE).encode_line()
    assert ask(FakeAgent(lambda frame: stale + b"\xff\x00 garbage\n" + reply(frame)))


def test_an_agents_error_keeps_its_exit_code() -> None:
    def refuse(frame: Frame) -> bytes:
        error = errors.RefusedByGuest("no")
        return protocol.failure_frame(frame.request_id, error).encode_line()

    with pytest.raises(errors.RefusedByGuest, match="no"):
        ask(FakeAgent(refuse))


def test_a_silent_agent_is_a_timeout() -> None:
    with pytest.raises(errors.TimedOut):
        ask(FakeAgent(lambda _: b""), within_s=0.1)


def test_a_connection_that_stays_silent_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU leaves one deaf that follows on one which ended while the VM was paused."""
    monkeypatch.setattr(agent_client, "_RETRY_S", 0.01)
    monkeypatch.setattr(agent_client, "_DEAF_S", 0.02)
    deaf, hearing = FakeAgent(lambda _: b""), FakeAgent(lambda frame: reply(frame, STATUS))
    client = AgentClient(deaf, None, reopen=lambda: hearing)
    assert client.wait_for_agent(Deadline.after(30)).role == "root"
    assert (deaf.closed, hearing.closed) == (True, False)


def test_a_reply_of_another_kind_is_not_believed() -> None:
    granted = protocol.encode(protocol.Granted(b"grant"))
    with pytest.raises(errors.NotAuthentic):
        ask(FakeAgent(lambda frame: reply(frame, granted)))


def test_a_flood_of_progress_does_not_outlast_the_deadline() -> None:
    class Flood(FakeAgent):
        def receive(self, timeout_s: float) -> bytes:
            return reply(
                self.heard[0], protocol.encode(protocol.Progress(protocol.Step.COPY)), Kind.PROGRESS
            )

    seen: list[protocol.Progress] = []
    with pytest.raises(errors.TimedOut):
        ask(Flood(lambda _: b""), within_s=0.1, on_progress=seen.append)
    assert seen


def test_cancelling_ends_a_wait() -> None:
    cancelled = threading.Event()
    client = AgentClient(FakeAgent(lambda _: b""), None, cancelled)
    threading.Timer(0.05, cancelled.set).start()
    with pytest.raises(Cancelled):
        client.ask(protocol.GetStatus(), protocol.Status, deadline=Deadline.after(30))


def test_the_simulated_processor_is_asked_and_its_answer_goes_back() -> None:
    def asks_for_evidence_first(frame: Frame) -> bytes:
        if frame.kind == SIMULATED_EVIDENCE:
            assert frame.payload == b"signed:" + bytes(64)
            return reply(agent.heard[0])
        return Frame(SIMULATED_EVIDENCE, b"evidence", bytes(64)).encode_line()

    agent = FakeAgent(asks_for_evidence_first)
    client = AgentClient(agent, lambda report_data: b"signed:" + report_data)
    assert client.ask(protocol.Attest(bytes(32)), protocol.Done, deadline=Deadline.after(60))


def test_without_a_simulator_nobody_answers_for_it() -> None:
    agent = FakeAgent(lambda _: Frame(SIMULATED_EVIDENCE, b"evidence", bytes(64)).encode_line())
    with pytest.raises(errors.TimedOut):
        ask(agent, within_s=0.1)
    assert len(agent.heard) == 1


def test_the_quickest_look_at_the_clock_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest is 3 s behind; one answer in the middle takes 10 ms, all others much longer."""
    now_ns, took_ms = [10**18], iter([400, 900, 10, 700, 500])

    def look(frame: Frame) -> bytes:
        half_ns = next(took_ms) * 500_000
        now_ns[0] += half_ns // 5  # the way there is quicker than the way back
        clock = protocol.Clock(now_ns[0] - 3 * 10**9)
        now_ns[0] += 2 * half_ns - half_ns // 5
        return reply(frame, protocol.encode(clock))

    monkeypatch.setattr("sevfork.host.agent_client.time.time_ns", lambda: now_ns[0])
    step_ns = AgentClient(FakeAgent(look), None).clock_step_ns(Deadline.after(30))
    assert abs(step_ns - 3 * 10**9) <= 5 * 10**6


@pytest.mark.parametrize("wall_ns", [2**62 + 1, -(2**63), 2**63])
def test_a_clock_beyond_all_reason_is_refused(wall_ns: int) -> None:
    def look(frame: Frame) -> bytes:
        payload = msgspec.msgpack.encode({"type": "Clock", "wall_ns": wall_ns})
        return reply(frame, payload)

    with pytest.raises(errors.NotAuthentic):
        AgentClient(FakeAgent(look), None).clock_step_ns(Deadline.after(30))
