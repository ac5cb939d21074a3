"""``sevfork stop``: in good order, by force after a time, and what is listed afterwards."""

from __future__ import annotations

import json

import pytest

from sevfork.cli import main as command
from sevfork.cli.options import App
from sevfork.host import connection_choice
from sevfork.host.hypervisor import DomainState
from sevfork.lifecycle import endings
from sevfork.lifecycle import stop as stopping
from sevfork.lifecycle.fork import ForkRequest, plan_fork, run_fork
from sevfork.wire import protocol
from tests.support.fake_guests import FakeGuest, FakeHouse
from tests.support.jobs import job_on


@pytest.fixture(autouse=True)
def _connected(monkeypatch: pytest.MonkeyPatch, house: FakeHouse) -> None:
    monkeypatch.setattr(command, "handle_signals", lambda _app: None)
    monkeypatch.setattr(connection_choice, "connect", lambda _uri, _note: house)
    monkeypatch.setattr(stopping, "_POLL_S", 0.01)
    monkeypatch.setattr(stopping, "_OFF_S", 0.05)


def sevfork(*arguments: str) -> int:
    return command.run(App(), [*arguments])


def listed(capsys: pytest.CaptureFixture[str], name: str) -> dict[str, object]:
    capsys.readouterr()
    assert sevfork("ls", "--json") == 0
    vms = json.loads(capsys.readouterr().out)["vms"]
    (found,) = (vm for vm in vms if vm["name"] == name)
    return dict(found)


def test_a_workload_is_asked_to_end_and_its_vm_is_off_and_listed(
    house: FakeHouse, parent: FakeGuest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevfork("stop", "web") == 0
    assert "exited with 0" in capsys.readouterr().out
    assert parent.stops == [False]
    assert house.find("web").state is DomainState.SHUT_OFF
    found = listed(capsys, "web")
    assert (found["state"], found["ended"]) == ("shut off", {"status": 0, "signal": None})
    assert sevfork("ls") == 0
    assert "shut off, workload exited with 0" in capsys.readouterr().out


def test_one_that_does_not_heed_the_signal_is_ended_by_force(
    parent: FakeGuest, capsys: pytest.CaptureFixture[str]
) -> None:
    parent.ignores_stop = True
    assert sevfork("stop", "web", "--timeout", "0.05", "--json") == 0
    told = json.loads(capsys.readouterr().out)["vm"]
    assert (told["signal"], told["forced"]) == (9, True)
    assert parent.stops == [False, True]


def test_one_that_has_ended_already_gets_no_signal(
    parent: FakeGuest, capsys: pytest.CaptureFixture[str]
) -> None:
    parent.end(3)
    assert sevfork("stop", "web") == 0
    assert "exited with 3" in capsys.readouterr().out
    assert parent.stops == []


def test_the_parent_of_a_child_that_is_stopped_hears_of_it(
    house: FakeHouse, parent: FakeGuest
) -> None:
    run_fork(job_on(house), plan_fork(house, ForkRequest("web")))
    assert sevfork("stop", "web-fork") == 0
    assert not house.find("web-fork").state.active
    heard = parent.agent.handle(protocol.ReadChronicle(0), lambda *_: None)
    assert isinstance(heard, protocol.Chronicle)
    told = [entry.event for entry in heard.entries]
    assert told[-2:] == [protocol.LifeEvent.EXITED, protocol.LifeEvent.ENDING]


def test_a_vm_that_does_not_run_cannot_be_stopped(house: FakeHouse, parent: FakeGuest) -> None:
    assert sevfork("stop", "web") == 0
    assert sevfork("stop", "web") == 11


def test_how_a_workload_ended_is_listed_while_its_vm_runs(
    parent: FakeGuest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert listed(capsys, "web")["ended"] is None
    parent.end(-11)
    assert listed(capsys, "web")["ended"] == {"status": None, "signal": 11}
    assert sevfork("ls") == 0
    assert "running, workload was ended by SIGSEGV" in capsys.readouterr().out


def test_an_end_of_which_nobody_knows_how(
    parent: FakeGuest, capsys: pytest.CaptureFixture[str]
) -> None:
    parent.end(None)
    assert listed(capsys, "web")["ended"] == {"status": None, "signal": None}


def test_an_agent_that_is_busy_or_silent_does_not_keep_a_list_waiting(
    house: FakeHouse,
    parent: FakeGuest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endings, "_ASK_S", 0.05)
    parent.end(3)
    channel = house.open_channel(house.find("web").uuid)
    assert listed(capsys, "web")["ended"] is None
    channel.close()
    monkeypatch.setattr(parent.agent, "handle", lambda *_: protocol.Done())
    assert listed(capsys, "web")["ended"] is None
