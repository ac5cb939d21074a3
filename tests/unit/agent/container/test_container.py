"""How a workload that does not start is told, and what its commands get of the agent."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec
import pytest

from sevfork.agent.container import adopt
from sevfork.agent.container.adopt import Ended
from sevfork.agent.container.container import Container
from sevfork.agent.workload import Ready, Workload
from sevfork.errors import RefusedByGuest, SevforkError, WrongState

WORKLOAD = Workload(name="web", command=("/usr/sbin/web", "-c", "a b"), ready=Ready(tcp=80))


@pytest.fixture
def container(tmp_path: Path) -> Container:
    """One whose first process has ended, in a guest that has no such control group any more."""
    (tmp_path / "pid").write_text("4711")
    return Container(WORKLOAD, state=tmp_path)


@pytest.fixture(autouse=True)
def _nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sevfork.agent.container.readiness._accepts", lambda _: False)


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (Ended(7), "ready: /usr/sbin/web -c 'a b' exited with 7"),
        (Ended(-11), "was ended by SIGSEGV"),
        (Ended(0), "exited with 0, but has to stay in the foreground"),
    ],
)
def test_how_a_workload_ended_is_said(
    container: Container, monkeypatch: pytest.MonkeyPatch, ended: Ended, words: str
) -> None:
    monkeypatch.setattr(adopt, "look", lambda pid: ended if pid == 4711 else None)
    with pytest.raises(WrongState, match="'web' ended before it was ready") as caught:
        container.wait_ready()
    assert caught.value.message.endswith(words)


def test_a_workload_whose_end_nobody_saw(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> Ended:
        raise SevforkError("how the process ended is not known")

    monkeypatch.setattr(adopt, "wait", unknown)
    with pytest.raises(WrongState, match="not known"):
        container.wait_ready()


def test_a_command_in_a_container_that_is_gone_is_refused(container: Container) -> None:
    (container.state / "pid").write_text(str(2**22 - 1))
    with pytest.raises(RefusedByGuest, match="/dev/null"):
        container.exec(["/bin/true"], timeout_s=1)


def test_the_first_process_gets_the_stop_signal_and_force_ends_all(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(Container, "cgroup", container.state)
    quitter = msgspec.structs.replace(WORKLOAD, stop_signal="SIGQUIT")
    Container(quitter, state=container.state).stop(False)
    assert sent == [(4711, signal.SIGQUIT)]
    container.stop(True)
    assert (container.state / "cgroup.kill").read_text() == "1"
    assert len(sent) == 1
