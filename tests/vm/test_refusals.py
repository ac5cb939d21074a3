"""Bad input: each with its exit code, a message that says what to do, and nothing changed."""

from __future__ import annotations

import pytest

from tests.vm.lab import Lab, Vm


def refused(lab: Lab, code: int, words: str, *argv: str) -> None:
    failed = lab.run(*argv, check=False)
    assert failed.returncode == code, failed.stderr
    assert words in failed.stderr
    assert failed.stdout == ""
    assert "Traceback" not in failed.stderr


def test_an_unknown_vm(lab: Lab) -> None:
    refused(lab, 11, "no VM 'nobody'", "fork", "nobody")


def test_a_name_that_is_taken(lab: Lab, redis_parent: Vm) -> None:
    other = lab.up("redis")
    refused(lab, 12, other.name, "fork", redis_parent.name, "--name", other.name)
    lab.remove(other)


def test_more_children_than_fit_into_memory(lab: Lab, redis_parent: Vm) -> None:
    refused(lab, 13, "free memory", "fork", redis_parent.name, "-n", "60")


@pytest.mark.parametrize("count", ["0", "-1", "65", "x"])
def test_a_count_that_makes_no_sense(lab: Lab, redis_parent: Vm, count: str) -> None:
    refused(lab, 2, "count", "fork", redis_parent.name, "-n", count)


def test_a_deadline_that_passes(lab: Lab, redis_parent: Vm) -> None:
    refused(lab, 30, "", "fork", redis_parent.name, "--timeout", "3s")
    assert redis_parent.redis().ping()
    assert not [name for name in lab.vms() if name.startswith(f"{redis_parent.name}-fork")]


def test_a_dry_run_changes_nothing(lab: Lab, redis_parent: Vm) -> None:
    before = lab.vms()
    lab.run("fork", redis_parent.name, "-n", "2", "--dry-run")
    printed = lab.run("fork", redis_parent.name, "--print-xml").stdout
    assert "<domain" in printed
    assert f"{redis_parent.name}-fork" in printed
    assert lab.vms() == before
