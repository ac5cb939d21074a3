"""Bad input: each with its exit code, a message that says what to do, and nothing changed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sevfork.domain.disks import volume_paths
from sevfork.host.hypervisor import Hypervisor
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
    taken = redis_parent.name
    refused(lab, 12, taken, "fork", redis_parent.name, "--name", taken)


def test_more_children_than_fit_into_memory(lab: Lab, redis_parent: Vm) -> None:
    refused(lab, 13, "free memory", "fork", redis_parent.name, "-n", "60")


@pytest.mark.parametrize("count", ["0", "-1", "65", "x"])
def test_a_count_that_makes_no_sense(lab: Lab, redis_parent: Vm, count: str) -> None:
    refused(lab, 2, "count", "fork", redis_parent.name, "-n", count)


def test_a_deadline_that_passes(lab: Lab, redis_parent: Vm) -> None:
    refused(lab, 30, "", "fork", redis_parent.name, "--timeout", "3s")
    assert redis_parent.redis().ping()
    assert not [name for name in lab.vms() if name.startswith(f"{redis_parent.name}-fork")]


@pytest.mark.parametrize("verb", ["fork", "attest"])
def test_a_vm_that_is_paused(lab: Lab, redis_parent: Vm, hypervisor: Hypervisor, verb: str) -> None:
    with paused(hypervisor, redis_parent):
        began = time.monotonic()
        refused(lab, 11, "is paused", verb, redis_parent.name)
        assert time.monotonic() - began < 10
    assert redis_parent.redis().ping()


def test_a_vm_that_is_paused_while_it_is_forked(
    lab: Lab, redis_parent: Vm, hypervisor: Hypervisor
) -> None:
    with lab.running("fork", redis_parent.name, "--debug") as fork:
        fork.wait_for("phase: boot")
        with paused(hypervisor, redis_parent):
            assert fork.process.wait(200) == 11, "".join(fork.lines)
    said = "".join(fork.lines)
    assert f"'{redis_parent.name}' is paused" in said
    assert f"resume '{redis_parent.name}'" in said
    assert_answers(lab, redis_parent)
    assert not [name for name in lab.vms() if name.startswith(f"{redis_parent.name}-fork")]


def test_the_volume_of_a_parent_that_is_paused_goes_with_the_next_command_after_that(
    lab: Lab, redis_parent: Vm, hypervisor: Hypervisor
) -> None:
    before = volume_paths(hypervisor.xml(redis_parent.uuid))
    with lab.running("fork", redis_parent.name, "--debug") as fork:
        fork.wait_for("phase: copy")
        with paused(hypervisor, redis_parent):
            assert fork.process.wait(200) == 11, "".join(fork.lines)
            said = lab.run("ls").stderr
            assert f"could not be cleaned up: '{redis_parent.name}' is paused" in said
            assert volume_paths(hypervisor.xml(redis_parent.uuid)) > before
    assert_answers(lab, redis_parent)
    lab.run("ls")
    assert lab.leftovers() == []
    assert volume_paths(hypervisor.xml(redis_parent.uuid)) == before


def assert_answers(lab: Lab, vm: Vm) -> None:
    """Its workload, and its agent, to the first command that comes."""
    assert vm.redis().ping()
    lab.run("attest", vm.name, "--allow-simulated", "--timeout", "20s")


@contextmanager
def paused(hypervisor: Hypervisor, vm: Vm) -> Iterator[None]:
    virsh = ["virsh", "-c", hypervisor.uri]
    subprocess.run([*virsh, "suspend", vm.uuid], check=True, capture_output=True, timeout=60)
    try:
        yield
    finally:
        subprocess.run([*virsh, "resume", vm.uuid], check=True, capture_output=True, timeout=60)


def test_a_dry_run_changes_nothing(lab: Lab, redis_parent: Vm) -> None:
    before = lab.vms()
    lab.run("fork", redis_parent.name, "-n", "2", "--dry-run")
    printed = lab.run("fork", redis_parent.name, "--print-xml").stdout
    assert "<domain" in printed
    assert f"{redis_parent.name}-fork" in printed
    assert lab.vms() == before
