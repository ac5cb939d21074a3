"""What fails is tried again later each time, and told once."""

from __future__ import annotations

from sevfork.errors import HostCannot
from sevfork.lifecycle.warm.retry import Retry


def test_each_pause_is_twice_the_last_up_to_a_limit() -> None:
    retry = Retry(lambda _text: None)
    pauses = [retry.failed(HostCannot("full")) for _ in range(7)]
    assert pauses == [5, 10, 20, 40, 80, 80, 80]
    assert retry.is_waiting


def test_the_same_failure_is_told_once_and_another_one_too() -> None:
    notes: list[str] = []
    retry = Retry(notes.append)
    for message in ("full", "full", "gone", "gone"):
        retry.failed(HostCannot(message))
    assert [note.partition(";")[0] for note in notes] == ["warning: full", "warning: gone"]
    assert retry.failed(HostCannot("other")) == 5


def test_what_works_again_may_be_told_again() -> None:
    notes: list[str] = []
    retry = Retry(notes.append)
    retry.failed(HostCannot("full"))
    retry.worked()
    assert not retry.is_waiting
    assert retry.failed(HostCannot("full")) == 5
    assert len(notes) == 2
