"""A workload that fails comes back, a few times; one that ended well, or was stopped, does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from sevfork.agent import restarts
from sevfork.agent.container.adopt import Ended
from sevfork.agent.restarts import MOST, Restarts
from sevfork.errors import SevforkError, WrongState


@dataclass
class Failing:
    """Ends again and again, as it is told."""

    returncodes: list[int | None]
    is_running: bool = False
    restarted: int = 0
    phases: list[bool] = field(default_factory=list)

    def ended(self) -> Ended:
        returncode = self.returncodes[0]
        if returncode is None:
            raise SevforkError("how the process ended is not known")
        return Ended(returncode)

    def restart(self) -> None:
        self.restarted += 1
        self.returncodes.pop(0)
        self.is_running = not self.returncodes

    def wait_ready(self) -> None:
        if not self.is_running:
            raise WrongState("it ended before it was ready")


@pytest.fixture(autouse=True)
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each restart would have waited."""
    slept: list[float] = []
    monkeypatch.setattr(restarts, "_LOOK_S", 0.001)
    monkeypatch.setattr(restarts, "time", type("", (), {"sleep": staticmethod(slept.append)}))
    return slept


def settled(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def watched(workload: Failing) -> Restarts:
    made = Restarts(workload, workload.phases.append)
    made.watch()
    return made


def test_it_comes_back_each_time_later(delays: list[float]) -> None:
    workload = Failing([1, -9, 3])
    made = watched(workload)
    settled(lambda: workload.is_running)
    made.refrain()
    assert [delay for delay in delays if delay >= 1] == [1, 2, 4]
    assert workload.phases == [True, False] * 3


def test_a_few_times_and_then_no_more() -> None:
    workload = Failing([1] * 100)
    made = watched(workload)
    settled(lambda: not made.follows)
    assert workload.restarted == MOST


@pytest.mark.parametrize("returncode", [0, None], ids=["in good order", "nobody knows how"])
def test_one_that_ended_otherwise_does_not_come_back(returncode: int | None) -> None:
    workload = Failing([returncode])
    made = watched(workload)
    settled(lambda: not made.follows)
    assert workload.restarted == 0


def test_one_that_is_stopped_does_not_come_back() -> None:
    workload = Failing([1], is_running=True)
    made = watched(workload)
    assert made.follows
    made.refrain()
    workload.is_running = False
    assert not made.follows
    assert workload.restarted == 0


def test_one_that_nobody_watches_does_not_come_back() -> None:
    assert not Restarts(Failing([1]), lambda _: None).follows


def test_one_that_has_proven_itself_begins_anew(
    monkeypatch: pytest.MonkeyPatch, delays: list[float]
) -> None:
    monkeypatch.setattr(restarts, "_PROVEN_S", 0.0)
    workload = Failing([1] * (2 * MOST))
    made = watched(workload)
    settled(lambda: workload.is_running)
    made.refrain()
    assert {delay for delay in delays if delay >= 1} == {1}
