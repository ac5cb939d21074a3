"""How an agent starts, and how it ends a VM that must not go on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sevfork.agent import __main__ as agent_main


class Enough(BaseException):
    """Stands for the end of the VM, or of the test's patience."""


@pytest.fixture
def sysrq(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What was written to the kernel's trigger, which here does nothing."""
    written: list[str] = []

    def sleep(_: float) -> None:
        if agent_main.SYSRQ.exists():
            written.append(agent_main.SYSRQ.read_text())
        if len(written) == 3:
            raise Enough

    monkeypatch.setattr(agent_main, "SYSRQ", tmp_path / "sysrq-trigger")
    monkeypatch.setattr(agent_main, "RESTORING", tmp_path / "restoring")
    monkeypatch.setattr(agent_main, "OOM_SCORE", tmp_path / "oom_score_adj")
    monkeypatch.setattr(time, "sleep", sleep)
    return written


def test_switching_off_does_not_return_and_tries_another_way(sysrq: list[str]) -> None:
    with pytest.raises(Enough):
        agent_main.power_off()
    assert sysrq == ["o", "b", "o"]


def test_switching_off_goes_on_when_the_kernel_refuses(
    sysrq: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []

    def sleep(seconds: float) -> None:
        tries.append(seconds)
        if len(tries) == 5:
            raise Enough

    monkeypatch.setattr(agent_main, "SYSRQ", Path("/proc/nowhere/at-all"))
    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(Enough):
        agent_main.power_off()


def test_an_agent_that_finds_a_restore_half_done_switches_the_vm_off(sysrq: list[str]) -> None:
    agent_main.RESTORING.touch()
    with pytest.raises(Enough):
        agent_main.give_up_what_was_half_restored()
    assert sysrq[0] == "o"


def test_an_agent_that_finds_none_goes_on(sysrq: list[str]) -> None:
    agent_main.give_up_what_was_half_restored()
    assert not sysrq


def test_nothing_is_done_before_the_marker_was_looked_for(
    sysrq: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_early() -> None:
        raise AssertionError("the agent went on")

    for name in ("unexpected.hide_messages", "logging.basicConfig"):
        monkeypatch.setattr(f"sevfork.agent.__main__.{name}", lambda **_: None)
    monkeypatch.setattr(agent_main, "read_measured", too_early)
    agent_main.RESTORING.touch()
    with pytest.raises(Enough):
        agent_main.main()
    assert agent_main.OOM_SCORE.read_text() == "-1000"
