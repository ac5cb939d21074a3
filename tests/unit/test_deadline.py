"""A deadline is handed down, and every wait ends by it."""

from __future__ import annotations

import time

import pytest

from sevfork.deadline import Deadline
from sevfork.errors import TimedOut


def test_what_is_left_is_never_negative() -> None:
    assert Deadline.after(-5).left_s == 0
    assert 59 < Deadline.after(60).left_s <= 60


def test_a_part_ends_no_later_than_the_whole() -> None:
    whole = Deadline.after(10)
    assert whole.within(60) == whole
    assert whole.within(1) < whole


def test_check_says_what_was_waited_for() -> None:
    Deadline.after(60).check("not yet")
    with pytest.raises(TimedOut, match="the guest"):
        Deadline.after(0).check("the guest was still booting")


def test_poll_looks_once_even_when_the_time_is_over() -> None:
    looks = Deadline.after(0).poll(1, "nothing came")
    next(looks)
    with pytest.raises(TimedOut, match="nothing came"):
        next(looks)


def test_poll_never_sleeps_past_the_deadline() -> None:
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        time.sleep(seconds)

    looks = Deadline.after(0.02).poll(60, "nothing came", sleep=sleep)
    with pytest.raises(TimedOut):
        list(looks)
    assert len(pauses) == 1
    assert pauses[0] <= 0.02


def test_an_interrupted_pause_ends_the_wait() -> None:
    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    looks = Deadline.after(60).poll(1, "never", sleep=interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(looks)
