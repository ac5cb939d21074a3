"""Whatever ends a fork half-way leaves a parent that serves, and nothing else."""

from __future__ import annotations

import signal

import pytest

from tests.vm.lab import Lab, Vm

# As --debug prints them: the capture in the parent, then what happens to the child.
PHASES = [
    f"phase: {name}"
    for name in ("copy", "freeze", "flush", "launch", "boot", "handshake", "restore")
]


def assert_only_the_parent_is_left(lab: Lab, parent: Vm) -> None:
    assert not [name for name in lab.vms() if name.startswith(f"{parent.name}-fork")]
    assert lab.leftovers() == [], "a sealed volume or a log was left"
    assert parent.redis().incr("alive") > 0


@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_leaves_nothing(lab: Lab, redis_parent: Vm, phase: str) -> None:
    with lab.running("fork", redis_parent.name, "--debug") as fork:
        fork.wait_for(phase)
        assert fork.signal(signal.SIGINT) == 130, "".join(fork.lines)
    assert_only_the_parent_is_left(lab, redis_parent)


# It goes SIGINT's way but for the exit code: once in the capture, once with a child there.
@pytest.mark.parametrize("phase", ["phase: flush", "phase: boot"])
def test_sigterm_leaves_nothing(lab: Lab, redis_parent: Vm, phase: str) -> None:
    with lab.running("fork", redis_parent.name, "--debug") as fork:
        fork.wait_for(phase)
        assert fork.signal(signal.SIGTERM) == 143, "".join(fork.lines)
    assert_only_the_parent_is_left(lab, redis_parent)


def killed(lab: Lab, parent: Vm, phase: str) -> None:
    with lab.running("fork", parent.name, "--debug") as fork:
        fork.wait_for(phase)
        fork.signal(signal.SIGKILL)


@pytest.mark.parametrize("phase", ["phase: copy", "phase: boot"])
def test_after_kill_9_the_next_command_cleans_up(lab: Lab, redis_parent: Vm, phase: str) -> None:
    killed(lab, redis_parent, phase)
    lab.run("ls")
    assert_only_the_parent_is_left(lab, redis_parent)


def test_after_kill_9_the_next_fork_cleans_up_and_succeeds(lab: Lab, redis_parent: Vm) -> None:
    killed(lab, redis_parent, "phase: restore")
    _, [child] = lab.fork(redis_parent, "--name", lab.name())
    lab.remove(child)
    assert_only_the_parent_is_left(lab, redis_parent)
