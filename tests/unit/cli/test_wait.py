"""``sevfork wait``: what it prints, and that it ends as the workload did."""

from __future__ import annotations

import json
import signal

import pytest

from sevfork.cli import main as command
from sevfork.cli.options import App
from sevfork.host import connection_choice
from sevfork.lifecycle import wait as waiting
from sevfork.lifecycle.fork import ForkRequest, plan_fork, run_fork
from tests.support.fake_guests import FakeGuest, FakeHouse
from tests.support.jobs import job_on


@pytest.fixture(autouse=True)
def _connected(monkeypatch: pytest.MonkeyPatch, house: FakeHouse) -> None:
    monkeypatch.setattr(command, "handle_signals", lambda _app: None)
    monkeypatch.setattr(connection_choice, "connect", lambda _uri, _note: house)
    monkeypatch.setattr(waiting, "_POLL_S", 0.01)


@pytest.fixture
def children(house: FakeHouse, parent: FakeGuest) -> list[FakeGuest]:
    made = run_fork(job_on(house), plan_fork(house, ForkRequest("web", count=2)))
    return [house.guests[child.uuid] for child in made.children]


def sevfork(*arguments: str) -> int:
    return command.run(App(), ["wait", *arguments])


@pytest.mark.parametrize(
    ("returncode", "code", "words"),
    [
        (0, 0, "exited with 0"),
        (3, 3, "exited with 3"),
        (-signal.SIGSEGV, 139, "was ended by SIGSEGV"),
        (-63, 191, "was ended by signal 63"),
    ],
)
def test_it_ends_as_the_workload_did(
    children: list[FakeGuest],
    capsys: pytest.CaptureFixture[str],
    returncode: int,
    code: int,
    words: str,
) -> None:
    children[0].end(returncode)
    assert sevfork("web-fork") == code
    assert capsys.readouterr().out.splitlines()[1].split("  ", 1)[1].strip() == words


def test_of_several_the_first_that_is_not_0_decides(children: list[FakeGuest]) -> None:
    children[0].end(0)
    children[1].end(5)
    assert sevfork("web-fork", "web-fork1") == 5
    assert sevfork("--any", "web-fork") == 0


def test_json_tells_a_status_from_a_signal_and_from_neither(
    house: FakeHouse, children: list[FakeGuest], capsys: pytest.CaptureFixture[str]
) -> None:
    children[0].end(0)
    children[1].end(-signal.SIGTERM)
    assert sevfork("web-fork", "web-fork1", "--json") == 143
    first, second = json.loads(capsys.readouterr().out)["vms"]
    assert (first["status"], first["signal"], first["error"]) == (0, None, None)
    assert (second["status"], second["signal"], second["error"]) == (None, 15, None)
    house.end(house.find("web-fork1").uuid)
    assert sevfork("web-fork1", "--json") == 33
    printed = capsys.readouterr()
    (lost,) = json.loads(printed.out)["vms"]
    assert (lost["status"], lost["signal"], lost["error"]["exit_code"]) == (None, None, 33)
    assert printed.err.startswith("error: 'web-fork1' is lost")


def test_a_timeout_is_no_status(
    children: list[FakeGuest], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevfork("web-fork", "--timeout", "0.1s") == 30
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "error: still runs: 'web-fork'\n")
