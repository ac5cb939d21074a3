"""What a program finds of the machine that it runs on, in parent, child and grandchild."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vm.lab import Lab, Vm


@pytest.fixture(scope="module")
def forked(lab: Lab) -> Iterator[tuple[Vm, list[Vm]]]:
    """A parent and two children of one fork."""
    parent = lab.up("machine")
    _, children = lab.fork(parent, "-n", "2")
    yield parent, children
    lab.remove(parent, *children)


@pytest.fixture(scope="module")
def family(lab: Lab, forked: tuple[Vm, list[Vm]]) -> Iterator[list[Vm]]:
    """Parent, child and grandchild; hooks with a daemon and 600 MB of output have passed twice."""
    parent, [child, _] = forked
    _, [grandchild] = lab.fork(child)
    yield [parent, child, grandchild]
    lab.remove(grandchild)


@pytest.fixture(scope="module")
def seen(family: list[Vm]) -> list[dict[str, Any]]:
    return [vm.json("/machine") for vm in family]


def test_what_a_hook_does_is_done_in_the_child_alone(forked: tuple[Vm, list[Vm]]) -> None:
    parent, children = forked
    marks = [child.get("/mark")[1] for child in children]
    for mark in marks:
        assert mark.endswith(b"marked\n")
        assert int.from_bytes(mark[:8], "little") == 1, "the generation has not changed"
    assert marks[0][8:24] != marks[1][8:24], "two children have the same unique id"
    assert parent.get("/mark")[0] == 404


def test_a_failing_hook_destroys_the_child(lab: Lab, forked: tuple[Vm, list[Vm]]) -> None:
    parent, _ = forked
    name = lab.name()
    parent.json("/fail")
    try:
        failed = lab.run("fork", parent.name, "--name", name, check=False)
    finally:
        parent.json("/mend")
    assert failed.returncode == 23, failed.stderr
    assert "hook" in failed.stderr
    assert parent.name in lab.vms()
    assert name not in lab.vms()


def test_a_hook_may_leave_a_daemon_behind_and_print_too_much(seen: list[dict[str, Any]]) -> None:
    counts = [machine["processes"] for machine in seen]
    assert counts == [counts[0], counts[0] + 1, counts[0] + 2]


def test_the_own_host_name_resolves(seen: list[dict[str, Any]]) -> None:
    assert {machine["address"] for machine in seen} == {"127.0.1.1"}
    assert len({machine["host_name"] for machine in seen}) == 3


def test_there_are_pseudo_terminals(seen: list[dict[str, Any]]) -> None:
    assert {machine["terminal"] for machine in seen} == {"through a terminal"}


def test_what_a_fork_cannot_carry_is_not_there(seen: list[dict[str, Any]]) -> None:
    for machine in seen:
        assert machine["seccomp"] == "2", "no filter"
        assert machine["calls"] == {
            "io_uring_setup": "ENOSYS",
            "keyctl": "EPERM",
            "landlock_create_ruleset": "ENOSYS",
            "pkey_alloc": "ENOSYS",
            "memfd_secret": "ENOSYS",
        }


def test_drivers_that_a_host_could_address_are_off(seen: list[dict[str, Any]]) -> None:
    for machine in seen:
        assert "virtio" in machine["drivers"], "nothing can be told from this list"
        assert not [name for name in ("nvme", "virtiofs") if name in machine["drivers"]]


def test_a_workload_that_does_not_start_is_told_with_command_and_status(lab: Lab) -> None:
    image = lab.image("no-start")
    failed = lab.run("up", lab.name(), "--image", str(image), check=False)
    assert failed.returncode == 23, failed.stderr
    assert "/bin/sh -c 'echo the address is taken >&2; exit 7'" in failed.stderr
    assert "exited with 7" in failed.stderr


def test_the_wall_clock_is_the_hosts_within_50_ms(family: list[Vm]) -> None:
    for vm in family:
        assert abs(behind_s(vm)) < 0.05


def behind_s(vm: Vm) -> float:
    """How far the guest's clock is behind, by the quickest of some looks."""
    looks = []
    for _ in range(10):
        before = time.time()
        wall_s = float(vm.json("/")["wall_s"])
        after = time.time()
        looks.append((after - before, (before + after) / 2 - wall_s))
    return min(looks)[1]
