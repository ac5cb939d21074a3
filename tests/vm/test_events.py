"""What happens to a child is known to its host and told to its parent's workload."""

from __future__ import annotations

import http.client
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vm.lab import Lab, Vm


@pytest.fixture(scope="module")
def parent(lab: Lab) -> Iterator[Vm]:
    parent = lab.up("family")
    yield parent
    lab.remove(parent)


@pytest.fixture(scope="module")
def child(lab: Lab, parent: Vm) -> Iterator[Vm]:
    _, [child] = lab.fork(parent)
    yield child
    lab.remove(child)


def tell_to_end(vm: Vm, path: str) -> None:
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        vm.get(path)


def children(vm: Vm) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = vm.json("/children")["children"]
    return found


def test_the_parent_is_told_by_the_fork_itself(parent: Vm, child: Vm) -> None:
    told = children(parent)
    assert [each["event"] for each in told] == ["restored", "ready"]
    assert len({each["child"] for each in told}) == 1


def test_the_exit_status_of_a_restored_workload_is_known(lab: Lab, child: Vm) -> None:
    early = lab.run("wait", child.name, "--timeout", "1s", check=False)
    assert (early.returncode, early.stdout) == (30, ""), early.stderr
    tell_to_end(child, "/exit/3")
    ended = lab.run("wait", child.name, "--timeout", "60s", check=False)
    assert ended.returncode == 3, ended.stderr
    assert "exited with 3" in ended.stdout


def test_it_is_told_to_the_parents_workload_and_its_hook(lab: Lab, parent: Vm, child: Vm) -> None:
    (exited,) = (each for each in children(parent) if each["event"] == "exited")
    assert (exited["status"], exited["signal"]) == (3, None)
    shown = lab.run("events", parent.name, "--json").data["events"]
    assert [each["event"] for each in shown] == ["restored", "ready", "exited"]
    assert {each["name"] for each in shown} == {child.name}
    deadline = time.monotonic() + 60
    while len(hooks := parent.json("/children")["hooks"]) < 3:
        assert time.monotonic() < deadline, hooks
        time.sleep(0.2)
    assert hooks == ["restored", "ready", "exited 3"]


def test_the_next_child_begins_without_children_and_is_followed_to_its_last_word(
    lab: Lab, parent: Vm, child: Vm
) -> None:
    _, [sibling] = lab.fork(parent)
    assert children(sibling) == [], "its siblings are not its children"
    with lab.running("events", parent.name, "--follow"):
        tell_to_end(sibling, "/crash")
        deadline = time.monotonic() + 60
        while (told := children(parent)[-1])["event"] != "exited":
            assert time.monotonic() < deadline, told
            time.sleep(0.2)
        assert (told["status"], told["signal"]) == (None, signal.SIGSEGV)
    lab.remove(sibling)
    assert children(parent)[-1]["event"] == "shutting down"
    shown = lab.run("events", parent.name, "--json").data["events"]
    assert [each["event"] for each in shown][3:] == [
        "restored",
        "ready",
        "exited",
        "shutting down",
    ]


def test_a_root_can_be_waited_for_too(lab: Lab, parent: Vm, child: Vm) -> None:
    tell_to_end(parent, "/exit/0")
    both = lab.run("wait", parent.name, child.name, "--json", "--timeout", "60s", check=False)
    assert both.returncode == 3, both.stderr
    assert [vm["status"] for vm in both.data["vms"]] == [0, 3]
