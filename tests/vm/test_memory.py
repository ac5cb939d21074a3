"""Workloads that leave their guest little memory: forked as long as it is enough, else refused."""

from __future__ import annotations

from tests.vm.lab import Lab, Vm


def fill(vm: Vm, mib: int) -> None:
    """In steps, each of which an emulated guest answers in time."""
    for step in (*range(100, mib, 100), mib):
        assert vm.json(f"/fill/{step}") >= step


def test_600_of_768_mib_fork_and_what_is_more_is_refused(lab: Lab) -> None:
    parent = lab.up("holder", "--memory", "768M")
    fill(parent, 600)
    before = parent.get("/digest")
    forked, [child] = lab.fork(parent)
    assert child.get("/digest") == before, "the child holds other bytes"
    assert child.json("/fill/0") >= 600
    assert parent.get("/digest") == before
    print(f"pause {forked['pause_ms']:.0f} ms, capture {forked['capture_s']:.1f} s")
    lab.remove(child)

    fill(parent, 620)
    full = parent.get("/digest")
    refused = lab.run("fork", parent.name, check=False)
    assert refused.returncode == 23, refused.stderr
    assert "too little memory" in refused.stderr
    assert parent.get("/digest") == full, "the parent does not run on"
    lab.remove(parent)
