"""Snapshots of a workload in which everything changes from one update to the next."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vm.lab import Lab, Vm

HOME, MTIME = "/var/lib/workload", 1


@pytest.mark.parametrize("rounds", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_an_update_misses_nothing(lab: Lab, rounds: int) -> None:
    """All kinds of memory, files and processes; also after layers that nobody looked at between."""
    parent = lab.up("chain")
    begun = lab.run("snapshot", parent.name, "--json").data
    for number in range(1, rounds + 1):
        assert parent.json("/change") == {"round": number}
        made = lab.run("snapshot", parent.name, "--json").data
        # Shared memory is whole in each update, and so they outgrow their base in a while.
        assert made["layers"] == number + 1 or number > 2, made
    print(f"base {begun['state_bytes']} bytes, last update {made['state_bytes']}")
    parent.json("/change")
    _, [child] = lab.fork(parent)
    expected = parent.json("/state")
    assert expected["round"] == rounds + 1
    assert_same(child, expected)

    # What the child changes is its own; and it can begin a chain too.
    lab.run("snapshot", child.name)
    child.json("/change")
    _, [grandchild] = lab.fork(child)
    assert_same(grandchild, child.json("/state"))
    assert_same(parent, expected)
    lab.remove(parent, child, grandchild)


def assert_same(vm: Vm, expected: dict[str, Any]) -> None:
    """Part by part, so that a difference is short."""
    found = vm.json("/state")
    for part, value in expected.items():
        if isinstance(value, dict) and HOME in value:
            # CRIU makes the deleted file that is open, and deletes it, in this directory.
            value[HOME][MTIME] = found[part][HOME][MTIME]
        assert found[part] == value, part
