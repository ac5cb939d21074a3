"""A child's files: the same inode numbers, databases that stay whole, holes that stay holes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vm.lab import Lab, Vm

ROUNDS = 3
UNDER_LOAD_S = 5


@pytest.fixture(scope="module")
def files_parent(lab: Lab) -> Iterator[Vm]:
    parent = lab.up("files")
    yield parent
    lab.remove(parent)


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


def assert_whole(vm: Vm) -> None:
    for name, state in vm.json("/databases").items():
        assert state["errors"] == [], name
        assert state["integrity"] == "ok", name
        for writer, count, largest in state["rows"]:
            assert count == largest > 0, f"{name}: writer {writer} lost rows"


def assert_goes_on(vm: Vm) -> None:
    """Whole, written to by the connections that were open before, and whole after that."""
    assert_whole(vm)
    before = vm.json("/databases")
    time.sleep(UNDER_LOAD_S)
    assert_whole(vm)
    after = vm.json("/databases")
    for name in before:
        for old, new in zip(before[name]["rows"], after[name]["rows"], strict=True):
            assert new[1] > old[1], f"{name}: writer {old[0]} stands still"


def test_every_path_and_open_file_has_its_number_in_child_and_grandchild(
    lab: Lab, files_parent: Vm
) -> None:
    files_parent.json("/note")
    assert changed(files_parent) == {}
    _, [child] = lab.fork(files_parent)
    _, [grandchild] = lab.fork(child)
    assert changed(child) == {}
    assert changed(grandchild) == {}
    sparse = grandchild.json("/files")["sparse"]
    assert sparse["size"] == 1 << 30
    assert sparse["stored"] <= 2 << 20
    lab.remove(child, grandchild)


@pytest.mark.parametrize(
    "rounds", [ROUNDS, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(5400)])]
)
def test_sqlite_under_load_stays_whole_in_parent_child_and_grandchild(
    lab: Lab, files_parent: Vm, rounds: int
) -> None:
    for _ in range(rounds):
        _, [child] = lab.fork(files_parent)
        _, [grandchild] = lab.fork(child)
        for vm in (files_parent, child, grandchild):
            assert_goes_on(vm)
        lab.remove(child, grandchild)
