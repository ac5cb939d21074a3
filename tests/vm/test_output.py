"""What a workload prints: kept, bounded, forked, told where it failed; and nowhere where it is not
to be.
"""

from __future__ import annotations

import hashlib
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import cast

import pytest

from scripts.client import SEVFORK
from sevfork.deadline import Deadline
from sevfork.domain.xml import spec_from_xml
from sevfork.errors import RefusedByGuest
from sevfork.host.hypervisor import Hypervisor
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.logs import AskLogs, Reader, ask_as_host
from sevfork.owner.key_file import read_key
from sevfork.owner.reading import OwnersReading
from tests.vm.eavesdropping import Listening, consoles, decoded, logs
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
    assert "  | the parent" not in failed.stderr, "that was before the hook"


def test_a_command_runs_inside_as_the_workloads_user(lab: Lab, printer: Vm) -> None:
    script = "echo out; echo err >&2; id -un; exit 5"
    done = lab.run("exec", printer.name, "--", "/bin/sh", "-c", script, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (5, "out\nnobody\n", "err\n")
    done = lab.run("exec", printer.name, "--", "/bin/nonsuch", check=False)
    assert done.returncode == 23, done.stderr
    content = secrets.token_bytes(200_000)
    summed = subprocess.run(
        [SEVFORK, "exec", printer.name, "-i", "--", "sha256sum"],
        input=content,
        capture_output=True,
        check=True,
        timeout=200,
    )
    assert summed.stdout.split()[0].decode() == hashlib.sha256(content).hexdigest()


def test_no_fork_while_a_command_runs_inside_and_one_after_it(lab: Lab, printer: Vm) -> None:
    words = ("exec", printer.name, "--", "/bin/sh", "-c", "echo begun >&2; exec sleep 1000")
    with lab.running(*words) as running:
        running.wait_for("begun")
        refused = lab.run("fork", printer.name, "--name", lab.name(), check=False)
        assert refused.returncode == 11, refused.stderr
        assert "exec sleep 1000" in refused.stderr
        assert running.signal(signal.SIGINT) == 130
    _, [child] = lab.fork(printer)
    assert lab.run("exec", child.name, "--", "id", "-un").stdout == "nobody\n"
    lab.remove(child)


def test_a_workload_that_ends_at_once_says_why(lab: Lab) -> None:
    image = lab.image("no-start")
    failed = lab.run("up", lab.name(), "--image", str(image), check=False)
    assert failed.returncode == 23, failed.stderr
    assert "exited with 7" in failed.stderr
    assert "  | the address is taken\n" in failed.stderr


def test_a_workload_that_fails_is_started_again_in_parent_and_child(lab: Lab, printer: Vm) -> None:
    _, [child] = lab.fork(printer)
    for vm in (printer, child):
        with suppress(OSError, HTTPException):
            vm.get("/exit/3")
        comes_back(vm)
        assert printed(lab, vm, "--tail", "2") == "leaving\nready to print\n"
        assert lab.vms()[vm.name]["ended"] is None
    _, [grandchild] = lab.fork(child)
    assert grandchild.get("/streams")[0] == 200
    lab.remove(child, grandchild)


def comes_back(vm: Vm) -> None:
    until = time.monotonic() + 120
    while True:
        time.sleep(1)
        with suppress(OSError, HTTPException):
            if vm.get("/streams")[0] == 200:
                return
        assert time.monotonic() < until


def test_a_workload_is_stopped_and_how_it_ended_is_listed(lab: Lab) -> None:
    vm = lab.up("printer")
    stopped = lab.run("stop", vm.name, "--timeout", "60s", "--json").data["vm"]
    assert (stopped["status"], stopped["forced"]) == (0, False)
    listed = lab.vms()[vm.name]
    assert listed["state"] == "shut off"
    assert listed["ended"] == {"status": 0, "signal": None}
    lab.remove(vm)


@dataclass
class Words:
    """A secret that a guest prints, and all of a host's places where it could be found."""

    lab: Lab
    listening: Listening
    text: str = field(default_factory=lambda: secrets.token_hex(24))

    def printed_by(self, vm: Vm) -> None:
        for verb in ("say", "error"):
            vm.get(f"/{verb}/{self.text}")

    def read(self, vm: Vm, ask: AskLogs) -> bytes:
        """By a host that listens to its own channel."""
        job = Job(cast(Hypervisor, self.listening), Deadline.after(60))
        spec = spec_from_xml(job.hypervisor.xml(vm.uuid))
        return Reader(job, spec, ask=ask).news()

    def on_the_host(self, *vms: Vm) -> bool:
        heard = decoded(b"".join(map(bytes, self.listening.traffic)))
        kept = logs() + consoles(cast(Hypervisor, self.listening), *vms)
        return self.text.encode() in heard + kept


@pytest.fixture
def words(lab: Lab, hypervisor: Hypervisor, tmp_path: Path) -> Words:
    return Words(lab, Listening(hypervisor, tmp_path / "dump"))


def test_a_secret_is_nowhere_where_nobody_may_read_what_is_printed(
    lab: Lab, printer: Vm, words: Words
) -> None:
    """With a positive control: in the image where the host may read, it is found."""
    silent = lab.up("silent")
    words.printed_by(silent)
    with pytest.raises(RefusedByGuest):
        words.read(silent, ask_as_host)
    refused = lab.run("exec", silent.name, "--", "id", check=False)
    assert refused.returncode == 23, refused.stderr
    assert not words.on_the_host(silent)
    lab.remove(silent)
    words.printed_by(printer)
    assert words.text.encode() in words.read(printer, ask_as_host)
    assert words.on_the_host(printer)


def test_an_owner_reads_what_the_host_cannot(lab: Lab, words: Words, tmp_path: Path) -> None:
    private, passphrase, policy = (tmp_path / name for name in ("owner", "passphrase", "policy"))
    passphrase.write_text("correct horse\n")
    with_passphrase = ("--passphrase-file", str(passphrase))
    line = lab.run("owner", "init", "-o", str(private), *with_passphrase).stdout.strip()
    policy.write_text(lab.run("policy", "--technology", "simulated").stdout)
    vm = lab.up("whisper", "--owner", line)
    by_policy = ("--policy", str(policy), "--image", str(lab.image("whisper")))
    key = ("--key", str(private), *with_passphrase, "--allow-simulated")
    lab.run("owner", "adopt", vm.name, *by_policy, *key)

    words.printed_by(vm)
    assert lab.run("logs", vm.name, check=False).returncode == 23
    by_owner = ("--owner-key", str(private), *with_passphrase, "--allow-simulated")
    assert lab.run("logs", vm.name, *by_owner).stdout.splitlines()[-1] == words.text

    claims = lab.run("attest", vm.name, "--allow-simulated", "--json").data["claims"]
    assert claims["logs"] == "guest"
    signer = read_key(private, private.read_text(), lambda: b"correct horse")
    reading = OwnersReading(signer, bytes.fromhex(claims["instance_key"]))
    assert words.text.encode() in words.read(vm, reading)
    assert not words.on_the_host(vm)
    lab.remove(vm)
