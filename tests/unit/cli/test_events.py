"""``sevfork events``: what it shows, once and from then on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from sevfork.cli import main as command
from sevfork.cli.options import App
from sevfork.host import agent_client, connection_choice, service_manager
from sevfork.host.hypervisor import DomainState
from sevfork.lifecycle import agents
from sevfork.lifecycle.fork import ForkRequest, plan_fork, run_fork
from sevfork.lifecycle.remove import plan_remove, remove
from tests.support.fake_guests import FakeGuest, FakeHouse
from tests.support.jobs import job_on


@pytest.fixture(autouse=True)
def _connected(monkeypatch: pytest.MonkeyPatch, house: FakeHouse) -> None:
    monkeypatch.setattr(command, "handle_signals", lambda _app: None)
    monkeypatch.setattr(connection_choice, "connect", lambda _uri, _note: house)


@pytest.fixture
def child(house: FakeHouse, parent: FakeGuest) -> FakeGuest:
    made = run_fork(job_on(house), plan_fork(house, ForkRequest("web")))
    return house.guests[made.children[0].uuid]


def sevfork(*arguments: str) -> int:
    return command.run(App(), ["events", *arguments])


def test_one_line_an_event(child: FakeGuest, capsys: pytest.CaptureFixture[str]) -> None:
    child.end(3)
    assert sevfork("web") == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert [line[1:] for line in lines] == [
        ["web-fork", "restored"],
        ["web-fork", "ready"],
        ["web-fork", "exited with 3"],
    ]
    assert all(line[0].endswith("+00:00") for line in lines)


def test_json_has_everything_that_the_workload_is_told(
    child: FakeGuest, parent: FakeGuest, capsys: pytest.CaptureFixture[str]
) -> None:
    child.end(-15)
    assert sevfork("web", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["vm"] == "web"
    told = [json.loads(line) for line in parent.children_file.splitlines()]
    assert [event["signal"] for event in document["events"]] == [None, None, 15]
    for event, line in zip(document["events"], told, strict=True):
        assert line == {key: event[key] for key in line} | {"time_s": line["time_s"]}


def test_a_vm_without_children_has_none_to_tell_of(
    parent: FakeGuest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevfork("web", "--json") == 0
    assert json.loads(capsys.readouterr().out)["events"] == []


def test_following_outlives_a_pause_of_the_vm(
    house: FakeHouse,
    child: FakeGuest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uuid = house.find("web").uuid
    monkeypatch.setattr(agents, "PAUSE_S", 0.05)
    monkeypatch.setattr(agent_client, "SILENCE_S", 0.05)

    def become(state: DomainState) -> None:
        house.defined[uuid] = (house.defined[uuid][0], state)

    def go_on() -> None:
        become(DomainState.RUNNING)
        child.end(3)

    rounds: Iterator[Callable[[], None]] = iter(
        [lambda: become(DomainState.PAUSED), go_on, lambda: become(DomainState.SHUT_OFF)]
    )
    monkeypatch.setattr("sevfork.cli.events.sleep", lambda _: next(rounds)())
    assert sevfork("web", "--follow") == 11
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1].endswith("exited with 3")
    assert printed.err.startswith("later: 'web' is paused")


def test_following_shows_what_comes_and_ends_with_the_vm(
    house: FakeHouse,
    child: FakeGuest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds: Iterator[Callable[[], None]] = iter(
        [
            lambda: None,
            lambda: child.end(3),
            lambda: None,
            lambda: remove(house, plan_remove(house, ["web"])),
        ]
    )
    ready: list[int] = []
    monkeypatch.setattr(service_manager, "notify_ready", lambda: ready.append(1))
    monkeypatch.setattr("sevfork.cli.events.sleep", lambda _: next(rounds)())
    assert sevfork("web", "--follow") == 11
    assert [line.split("  ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "restored",
        "ready",
        "exited with 3",
    ]
    assert ready == [1]
