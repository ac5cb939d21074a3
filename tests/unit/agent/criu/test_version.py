"""Which CRIU a guest may have."""

from __future__ import annotations

import pytest

from sevfork.agent.criu.version import is_new_enough


@pytest.mark.parametrize("version", ["4.2", "4.2-1", "4.2.1-1+b1", "4.10", "5.0", "1:4.2-3"])
def test_from_4_2_on_it_is(version: str) -> None:
    assert is_new_enough(version)


@pytest.mark.parametrize("version", ["4.1.1-1", "4.1.9", "3.17.1-2", "1:4.1-1", "", "new", "42"])
def test_what_is_older_or_says_nothing_is_not(version: str) -> None:
    assert not is_new_enough(version)
