"""How a workload that does not start is told, and what its commands get of the agent."""

from __future__ import annotations

from pathlib import Path

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
