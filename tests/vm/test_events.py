"""What happens to a child is known to its host: how its workload ended, as waitpid(2) tells it."""

from __future__ import annotations

import http.client

import pytest

from tests.vm.lab import Lab, Vm


def tell_to_exit(vm: Vm, status: int) -> None:
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        vm.get(f"/exit/{status}")


def test_the_exit_status_of_a_restored_workload_is_known(lab: Lab) -> None:
    parent = lab.up("family")
    _, [child] = lab.fork(parent)
    early = lab.run("wait", child.name, "--timeout", "1s", check=False)
    assert (early.returncode, early.stdout) == (30, ""), early.stderr
    tell_to_exit(child, 3)
    ended = lab.run("wait", child.name, "--timeout", "60s", check=False)
    assert ended.returncode == 3, ended.stderr
    assert "exited with 3" in ended.stdout
    assert parent.get("/") == (200, b"alive")
    tell_to_exit(parent, 0)
    both = lab.run("wait", parent.name, child.name, "--json", "--timeout", "60s", check=False)
    assert both.returncode == 3
    assert [vm["status"] for vm in both.data["vms"]] == [0, 3]
