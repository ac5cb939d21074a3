"""Which CRIU a guest may have."""

from __future__ import annotations

import pytest

from sevfork.agent import __main__ as agent
from sevfork.agent.criu.version import check_printed, is_new_enough
from sevfork.errors import SevforkError


@pytest.mark.parametrize("version", ["4.2", "4.2-1", "4.2.1-1+b1", "4.10", "5.0", "1:4.2-3"])
def test_from_4_2_on_it_is(version: str) -> None:
    assert is_new_enough(version)


@pytest.mark.parametrize("version", ["4.1.1-1", "4.1.9", "3.17.1-2", "1:4.1-1", "", "new", "42"])
def test_what_is_older_or_says_nothing_is_not(version: str) -> None:
    assert not is_new_enough(version)


def test_what_criu_prints_is_understood() -> None:
    check_printed("Version: 4.2.1\nGitID: v4.2.1\n")


@pytest.mark.parametrize("printed", ["Version: 4.1.1\n", "4.2\n", ""])
def test_a_guest_with_an_old_one_is_switched_off(
    printed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Off(Exception):
        pass

    def power_off() -> None:
        raise Off

    monkeypatch.setattr(agent, "require_version", lambda: check_printed(printed))
    monkeypatch.setattr(agent, "power_off", power_off)
    with pytest.raises(Off):
        agent.refuse_an_old_criu()


def test_the_reason_names_the_version() -> None:
    with pytest.raises(SevforkError, match=r"CRIU is 4\.1\.1"):
        check_printed("Version: 4.1.1\n")
