"""What every test of the agent's files needs."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _any_inode_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not run on a tmpfs of their own: their files have the numbers that they have."""
    monkeypatch.setattr("sevfork.agent.container.inodes.LARGEST", 2**64)
