"""What a workload prints: kept, bounded, forked, told where it failed; and nowhere where it is not
to be.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from sevfork.host.hypervisor import Hypervisor
from tests.vm.eavesdropping import consoles, logs
from tests.vm.lab import Lab, Vm

KEPT_BYTES = 1 << 20
MUCH_BYTES = 50_000_000


@pytest.fixture(scope="module")
def printer(lab: Lab) -> Iterator[Vm]:
    vm = lab.up("printer")
    yield vm
    lab.remove(vm)


def printed(lab: Lab, vm: Vm, *options: str) -> str:
    return lab.run("logs", vm.name, *options).stdout


def test_what_it_prints_is_shown_however_it_prints(lab: Lab, printer: Vm) -> None:
    assert printer.get("/streams")[1] == b"[False, True, True] [False, False, False]"
    printer.get("/say/on%20standard%20output")
    printer.get("/error/on%20standard%20error")
    printer.get("/reopen/again")
    assert printed(lab, printer).splitlines() == [
        "ready to print",
        "on standard output",
        "on standard error",
        "again by /dev/stdout",
        "again by /proc/self/fd/1",
        "again by /dev/stderr",
    ]
    assert printed(lab, printer, "--tail", "1") == "again by /dev/stderr\n"


def test_a_child_has_it_and_goes_on_and_50_mb_cost_a_mib(lab: Lab, printer: Vm) -> None:
    before = printed(lab, printer)
    printer.get(f"/much/{MUCH_BYTES}")
    told = lab.run("logs", printer.name, "--json").data
    assert told["text"].endswith("\0\nthat was much\n")
    assert told["lost_bytes"] == told["end_bytes"] - KEPT_BYTES
    assert told["end_bytes"] == len(before) + MUCH_BYTES + len("\nthat was much\n")
    _, [child] = lab.fork(printer)
    child.get("/say/the%20child")
    child.get("/reopen/the%20child")
    printer.get("/say/the%20parent")
    inherited = lab.run("logs", child.name, "--json").data
    assert inherited["text"].splitlines()[-6:] == [
        "that was much",
        "the hook speaks",
        "the child",
        *(f"the child by {path}" for path in ("/dev/stdout", "/proc/self/fd/1", "/dev/stderr")),
    ]
    assert printed(lab, printer, "--tail", "2") == "that was much\nthe parent\n"
    lab.remove(child)


def test_a_hook_that_fails_is_told_with_what_it_said(lab: Lab, printer: Vm) -> None:
    printer.get("/fail/")
    failed = lab.run("fork", printer.name, "--name", lab.name(), check=False)
    printer.get("/mend/")
    assert failed.returncode == 23, failed.stderr
    assert "  | the hook speaks\n" in failed.stderr
    assert "the parent" not in failed.stderr, "that was before the hook"


def test_a_workload_that_ends_at_once_says_why(lab: Lab) -> None:
    image = lab.image("no-start")
    failed = lab.run("up", lab.name(), "--image", str(image), check=False)
    assert failed.returncode == 23, failed.stderr
    assert "exited with 7" in failed.stderr
    assert "  | the address is taken\n" in failed.stderr


def test_a_workload_is_stopped_and_how_it_ended_is_listed(lab: Lab) -> None:
    vm = lab.up("printer")
    stopped = lab.run("stop", vm.name, "--timeout", "60s", "--json").data["vm"]
    assert (stopped["status"], stopped["forced"]) == (0, False)
    listed = lab.vms()[vm.name]
    assert listed["state"] == "shut off"
    assert listed["ended"] == {"status": 0, "signal": None}
    lab.remove(vm)


def test_a_secret_is_nowhere_where_nobody_may_read_what_is_printed(
    lab: Lab, printer: Vm, hypervisor: Hypervisor
) -> None:
    """With a positive control: in the image where the host may read, it is found."""
    secret = secrets.token_hex(24)
    silent = lab.up("silent")
    for vm in (silent, printer):
        vm.get(f"/say/{secret}")
        vm.get(f"/error/{secret}")
    refused = lab.run("logs", silent.name, check=False)
    assert refused.returncode == 23, refused.stderr
    assert secret not in refused.stdout + refused.stderr
    assert secret in printed(lab, printer)
    assert secret.encode() not in logs() + consoles(hypervisor, silent, printer)
    lab.remove(silent)
