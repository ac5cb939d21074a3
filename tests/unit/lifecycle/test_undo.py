"""What is taken back, when, and in which order."""

from __future__ import annotations

import pytest

from sevfork.errors import ChildLeftBehind, WrongState
from sevfork.lifecycle.undo import Undo


def ending(done: list[str], error: BaseException | None) -> None:
    with Undo() as undo:
        undo.on_failure(done.append, "the child")
        undo.at_end(done.append, "the channel")
        undo.on_failure(done.append, "the domain")
        if error:
            raise error


def test_what_was_made_stays_when_all_went_well() -> None:
    done: list[str] = []
    ending(done, None)
    assert done == ["the channel"]


@pytest.mark.parametrize("error", [WrongState("x"), KeyboardInterrupt()])
def test_whatever_fails_everything_is_taken_back_in_reverse_order(error: BaseException) -> None:
    done: list[str] = []
    with pytest.raises(type(error)):
        ending(done, error)
    assert done == ["the domain", "the channel", "the child"]


def leave(undo: Undo, error: BaseException | None = None) -> None:
    with undo:
        if error:
            raise error


def fails(error: BaseException) -> None:
    raise error


def test_an_interrupt_of_the_clean_up_takes_back_what_was_finished() -> None:
    done: list[str] = []
    undo = Undo()
    undo.on_failure(done.append, "the child")
    undo.at_end(fails, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        leave(undo)
    assert done == ["the child"]


def test_best_effort_never_replaces_the_outcome(caplog: pytest.LogCaptureFixture) -> None:
    undo = Undo()
    undo.best_effort(fails, WrongState("the volume is stuck"))
    with pytest.raises(ZeroDivisionError):
        leave(undo, ZeroDivisionError())
    assert "the volume is stuck" in caplog.text


def test_what_is_left_behind_is_told_first_of_all() -> None:
    undo = Undo()
    undo.on_failure(fails, ChildLeftBehind("something is left"))
    with pytest.raises(ChildLeftBehind):
        leave(undo, WrongState("why"))
