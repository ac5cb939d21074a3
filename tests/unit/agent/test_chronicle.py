"""What a workload is told of its children, whatever it does to the file that it is told in."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Mapping, Sequence

import pytest

from sevfork.agent import chronicle as chronicle_module
from sevfork.agent.chronicle import MAX_ENTRIES, Chronicle, Told
from sevfork.agent.container.adopt import Ended
from sevfork.agent.workload import Hook
from sevfork.errors import RefusedByGuest, SevforkError, TimedOut
from sevfork.wire.protocol import MAX_PAGE, LifeEvent

TOLD = Told(b"c" * 16, b"f" * 16, 2, LifeEvent.EXITED, 3)
HOOK = Hook(("/bin/hook", "now"), 5.0)


class Home:
    """A container; ``failures`` are raised by the next commands, ``broken`` by its file."""

    is_running = True

    def __init__(self) -> None:
        self.file, self.times_anew = b"", 0
        self.may_run = threading.Event()
        self.may_run.set()
        self.broken: Exception | None = None
        self.failures: list[Exception] = []
        self.ran: list[tuple[Sequence[str], Mapping[str, str], float]] = []

    def tell(self, line: bytes) -> int:
        if self.broken:
            raise self.broken
        self.file += line
        return len(self.file)

    def tell_anew(self, lines: bytes) -> None:
        self.file, self.times_anew = lines, self.times_anew + 1

    def exec(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, *, timeout_s: float
    ) -> Ended:
        assert self.may_run.wait(60)
        if self.failures:
            raise self.failures.pop(0)
        self.ran.append((argv, env or {}, timeout_s))
        return Ended(1)

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.file.splitlines()]


@pytest.fixture
def home() -> Home:
    return Home()


def run_hooks(chronicle: Chronicle) -> None:
    assert chronicle.hooks is not None
    chronicle.hooks.wait()


def test_a_line_of_json_for_each(home: Home) -> None:
    chronicle = Chronicle(home, None)
    chronicle.write(TOLD)
    chronicle.write(Told(b"", b"f" * 16, 0, LifeEvent.EXITED, -9))
    chronicle.write(Told(b"c" * 16, b"f" * 16, 0, LifeEvent.READY))
    first, second, third = home.lines
    assert first["child"] == (b"c" * 16).hex()
    assert (first["fork_id"], first["index"]) == ((b"f" * 16).hex(), 2)
    assert (first["event"], first["status"], first["signal"]) == ("exited", 3, None)
    assert (second["child"], second["status"], second["signal"]) == ("", None, 9)
    assert (third["event"], third["status"], third["signal"]) == ("ready", None, None)
    assert all(isinstance(line["time_s"], float) for line in home.lines)


def test_the_file_does_not_grow_without_end(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chronicle_module, "MAX_FILE_BYTES", 2000)
    monkeypatch.setattr(chronicle_module, "MAX_ENTRIES", 8)
    chronicle = Chronicle(home, None)
    for index in range(60):
        chronicle.write(Told(b"c" * 16, b"f" * 16, index, LifeEvent.READY))
        assert len(home.file) <= 2000
    assert home.times_anew > 1
    indexes = [line["index"] for line in home.lines]
    assert indexes[-4:] == [56, 57, 58, 59]


def test_entries_are_read_page_by_page_and_forgotten_in_the_end(home: Home) -> None:
    chronicle = Chronicle(home, None)
    for _ in range(MAX_ENTRIES + 10):
        chronicle.write(TOLD)
    numbers: list[int] = []
    while page := chronicle.after(numbers[-1] if numbers else 0):
        assert len(page) <= MAX_PAGE
        numbers += [entry.number for entry in page]
    assert numbers == list(range(11, MAX_ENTRIES + 11))


@pytest.mark.parametrize(
    "broken", [OSError(errno.ENOSPC, "full"), RefusedByGuest("'sevfork' is no directory")]
)
def test_a_workload_that_breaks_its_file_is_told_by_the_hook_and_the_host_all_the_same(
    home: Home, broken: Exception
) -> None:
    home.broken = broken
    chronicle = Chronicle(home, HOOK)
    chronicle.write(TOLD)
    run_hooks(chronicle)
    assert len(chronicle.after(0)) == len(home.ran) == 1


def test_the_hook_is_told_of_the_child_in_its_environment(home: Home) -> None:
    chronicle = Chronicle(home, HOOK)
    chronicle.write(TOLD)
    chronicle.write(Told(b"c" * 16, b"f" * 16, 0, LifeEvent.LOST))
    run_hooks(chronicle)
    (argv, environment, timeout_s), (_, lost, _) = home.ran
    assert (argv, timeout_s) == (("/bin/hook", "now"), 5.0)
    assert environment == {
        "SEVFORK_EVENT": "exited",
        "SEVFORK_CHILD": (b"c" * 16).hex(),
        "SEVFORK_FORK_ID": (b"f" * 16).hex(),
        "SEVFORK_CHILD_INDEX": "2",
        "SEVFORK_STATUS": "3",
    }
    assert lost["SEVFORK_EVENT"] == "lost"
    assert "SEVFORK_STATUS" not in lost


@pytest.mark.parametrize("failure", [TimedOut("late"), SevforkError("no"), ZeroDivisionError()])
def test_a_hook_that_fails_does_not_keep_the_next_from_running(
    home: Home, failure: Exception
) -> None:
    home.failures = [failure]
    chronicle = Chronicle(home, HOOK)
    chronicle.write(TOLD)
    chronicle.write(TOLD)
    run_hooks(chronicle)
    assert len(home.ran) == 1


def test_no_hook_runs_in_a_container_that_has_ended(home: Home) -> None:
    home.is_running = False
    chronicle = Chronicle(home, HOOK)
    chronicle.write(TOLD)
    run_hooks(chronicle)
    assert not home.ran


def test_hooks_that_wait_do_not_hold_up_the_agent_and_are_bounded(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chronicle_module, "_MAX_WAITING_HOOKS", 3)
    chronicle = Chronicle(home, HOOK)
    assert chronicle.hooks is not None
    home.may_run.clear()
    for _ in range(10):
        chronicle.write(TOLD)
    assert chronicle.hooks.waiting == 3
    home.may_run.set()
    run_hooks(chronicle)
    assert len(home.ran) in (3, 4), "the one that was run already, and those that had room"
    assert len(chronicle.after(0)) == 10
