"""One run on one machine: what can be run here, the steps, what they left, and the clearing up."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.hardware import masking
from scripts.hardware.running import Outcome, Runner, run_steps
from scripts.hardware.steps import Step
from sevfork.attest.evidence import Evidence
from sevfork.technology import Technology

HARDWARE = (Technology.SEV_SNP, Technology.TDX)
_SUBJECTS = ("AMD SEV-SNP", "Intel TDX", "minimum TCB", "KVM", "libvirt", "QEMU")
_CLEAN_UP_S = 300


def choose(doctor: Mapping[str, Any], asked: str | None) -> Technology | None:
    """What was asked for, or what there is, if ``doctor --json`` says that it can be run."""
    usable = [each for each in HARDWARE if each.value in doctor["technologies"]]
    return next((each for each in usable if asked in (None, each.value)), None)


def missing(doctor: Mapping[str, Any]) -> list[str]:
    """What this machine lacks, in lines."""
    lines = ["hardware missing: guests of SEV-SNP or TDX cannot be run here"]
    for each in doctor["findings"]:
        if each["subject"] in _SUBJECTS:
            lines.append(f"  {each['subject']}: {each['found']}")
            lines += [f"    {each['remedy']}"] if each["remedy"] else []
    return [*lines, "docs/hardware.md goes from the BIOS to the first fork"]


@dataclass(frozen=True)
class Session:
    """``work`` is a folder of its own; ``image`` is there, or where it is built.

    ``firmware``: the file that guests start with, as ``doctor`` has it.
    ``logs``: the serial logs of a VM and of those forked from it.
    """

    runner: Runner
    technology: Technology
    vm: str
    work: Path
    image: Path
    workload: Path
    firmware: str
    logs: Callable[[str], Mapping[str, str]]
    say: Callable[[str], None]

    def run(
        self, steps: Iterable[Step], verbs: Iterable[str]
    ) -> tuple[list[Outcome], Mapping[str, str]]:
        """Every outcome, and logs where one did not pass; the VMs are gone afterwards."""
        _make_passphrase(self.work / "passphrase")
        try:
            outcomes = list(self._steps(steps, verbs))
            well = all(outcome.passed for outcome in outcomes)
            return outcomes, {} if well else self.logs(self.vm)
        finally:
            self._remove()

    def _steps(self, steps: Iterable[Step], verbs: Iterable[str]) -> Iterator[Outcome]:
        fields = {
            "vm": self.vm,
            "work": str(self.work),
            "image": str(self.image),
            "technology": self.technology.value,
            "workload": str(self.workload),
            "firmware": self.firmware,
        }
        for outcome in run_steps(steps, fields, self.runner, verbs):
            line = f"{outcome.status.value:8} {outcome.seconds:7.1f} s  {outcome.step}"
            self.say(f"{line}: {outcome.why}" if outcome.why else line)
            yield outcome

    def _remove(self) -> None:
        listed = self.runner.run(["ls", "--json"], _CLEAN_UP_S)
        vms = json.loads(listed.stdout)["vms"] if listed.exit_code == 0 else []
        mine = [vm["name"] for vm in vms if belongs(vm["name"], self.vm)]
        if mine:
            self.runner.run(["rm", *mine], _CLEAN_UP_S)

    def evidence(self) -> dict[str, Evidence]:
        """What the steps saved, by name."""
        read = {path.stem: masking.read(path.read_bytes()) for path in self.work.glob("*.evidence")}
        return {name: each for name, each in sorted(read.items()) if each is not None}


def belongs(name: str, vm: str) -> bool:
    """Whether this is the parent or something forked from it: no other VM is touched."""
    return name == vm or name.startswith(f"{vm}-")


def _make_passphrase(path: Path) -> None:
    """Of the owner's key, which is for this run alone."""
    path.touch(0o600)
    path.write_text(f"{secrets.token_hex()}\n")
