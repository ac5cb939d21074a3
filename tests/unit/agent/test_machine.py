"""What the agent changes about its guest: the clock, as the host says."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sevfork.agent.machine import Guest
from sevfork.errors import RefusedByGuest


def test_the_clock_is_moved_by_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []
    monkeypatch.setattr(time, "time_ns", lambda: 1_000)
    monkeypatch.setattr(time, "clock_settime_ns", lambda _, to: moved.append(to))
    Guest(Path("marker")).step_clock(-400)
    assert moved == [600]


@pytest.mark.parametrize("error", [OSError("out of range"), OverflowError()])
def test_a_time_that_cannot_be_is_refused(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(time, "clock_settime_ns", refuse)
    with pytest.raises(RefusedByGuest, match="wall clock"):
        Guest(Path("marker")).step_clock(2**62)
