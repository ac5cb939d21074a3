"""A child's files: the same inode numbers, databases that stay whole, holes that stay holes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.vm.lab import Lab, Vm

ROUNDS = 2
UNDER_LOAD_S = 5


@pytest.fixture(scope="module")
def files_parent(lab: Lab) -> Iterator[Vm]:
    parent = lab.up("files")
    yield parent
    lab.remove(parent)


@contextmanager
def two_generations(lab: Lab, parent: Vm) -> Iterator[list[Vm]]:
    """Parent, child and grandchild."""
    _, [child] = lab.fork(parent)
    _, [grandchild] = lab.fork(child)
    yield [parent, child, grandchild]
    lab.remove(child, grandchild)


def changed(vm: Vm) -> dict[str, Any]:
    """What of the noted files has another number now, or is not there any more."""
    answer = vm.json("/files")
    assert len(answer["noted"]) > 300
    now = answer["now"]
    return {
        name: (number, now.get(name))
        for name, number in answer["noted"].items()
        if now.get(name) != number
    }


def whole(vm: Vm) -> dict[str, Any]:
    """Its databases, each of them in order."""
    databases: dict[str, Any] = vm.json("/databases")
    for name, state in databases.items():
        assert state["errors"] == [], name
        assert state["integrity"] == "ok", name
        for writer, count, largest in state["rows"]:
            assert count == largest > 0, f"{name}: writer {writer} lost rows"
    return databases


def assert_go_on(vms: list[Vm]) -> None:
    """Whole, written to by the connections that were open before, and whole after that."""
    before = [whole(vm) for vm in vms]
    time.sleep(UNDER_LOAD_S)
    for earlier, vm in zip(before, vms, strict=True):
        later = whole(vm)
        for name in earlier:
            for old, new in zip(earlier[name]["rows"], later[name]["rows"], strict=True):
                assert new[1] > old[1], f"{vm.name}, {name}: writer {old[0]} stands still"


def assert_same_numbers(vm: Vm) -> None:
    assert changed(vm) == {}
    sparse = vm.json("/files")["sparse"]
    assert sparse["size"] == 1 << 30
    assert sparse["stored"] <= 2 << 20


@pytest.mark.parametrize(
    "rounds", [ROUNDS, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(5400)])]
)
def test_files_have_their_numbers_and_databases_under_load_stay_whole_in_two_generations(
    lab: Lab, files_parent: Vm, rounds: int
) -> None:
    """Every path and open file, and SQLite in its two ways of writing."""
    for _ in range(rounds):
        files_parent.json("/note")
        assert changed(files_parent) == {}
        with two_generations(lab, files_parent) as [parent, child, grandchild]:
            assert_same_numbers(child)
            assert_same_numbers(grandchild)
            assert_go_on([parent, child, grandchild])
