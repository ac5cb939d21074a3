"""The report: one JSON document for us, and the same in text for whoever sends it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.hardware.masking import identifiers, masked, masked_evidence
from scripts.hardware.running import Outcome, Status
from sevfork.attest.evidence import Evidence
from sevfork.technology import Technology

_STDERR_LINES = 20


@dataclass(frozen=True)
class Report:
    """Everything that a reader elsewhere needs. ``logs``: serial logs by VM."""

    technology: Technology
    machine: Mapping[str, object]
    outcomes: Sequence[Outcome]
    evidence: Mapping[str, Evidence]
    logs: Mapping[str, str]

    @property
    def verdict(self) -> str:
        """``passed`` if every step did; ``incomplete`` if none failed and some were not made."""
        statuses = {outcome.status for outcome in self.outcomes}
        if Status.FAILED in statuses:
            return "failed"
        return "passed" if statuses == {Status.PASSED} else "incomplete"

    def document(self, host_name: str, at: datetime | None = None) -> dict[str, Any]:
        """As JSON has it, with all that names the machine masked."""
        hexadecimal = [name for each in self.evidence.values() for name in identifiers(each)]
        document: dict[str, Any] = {
            "schema": 1,
            "report": "sevfork on hardware",
            "at": (at or datetime.now(UTC)).isoformat(timespec="seconds"),
            "technology": self.technology.value,
            "verdict": self.verdict,
            "machine": dict(self.machine),
            "steps": [_step(outcome) for outcome in self.outcomes],
            "logs": dict(self.logs),
        }
        # The evidence is masked by itself: it is base64, where no name would be found.
        evidence = {name: masked_evidence(each) for name, each in self.evidence.items()}
        plain: dict[str, Any] = masked(document, host_name, hexadecimal)
        return {**plain, "evidence": evidence}


def _step(outcome: Outcome) -> dict[str, Any]:
    return {
        "step": outcome.step,
        "command": f"sevfork {outcome.command}",
        "status": outcome.status.value,
        "seconds": outcome.seconds,
        "why": outcome.why or None,
        "data": outcome.data,
        "stderr": outcome.stderr or None,
    }


def as_text(document: Mapping[str, Any]) -> str:
    """The same for people: the machine, a line for each step, and what those said that failed."""
    machine = document["machine"]
    lines = [
        f"sevfork on hardware: {document['technology']}, {document['verdict']}",
        f"{document['at']}, sevfork {machine['sevfork']} ({machine['commit']})",
        "",
        *_described(machine),
        "",
        *(_line(step) for step in document["steps"]),
    ]
    for step in document["steps"]:
        if step["status"] == Status.FAILED.value:
            lines += ["", f"{step['step']}: {step['command']}", *_last(step["stderr"])]
    return "\n".join(lines) + "\n"


def _described(machine: Mapping[str, Any]) -> Iterable[str]:
    for name, value in machine.items():
        if isinstance(value, str) and name not in ("sevfork", "commit"):
            yield f"{name}: {value}"
        elif isinstance(value, dict):
            yield f"{name}: {', '.join(str(each) for each in value.values())}"


def _line(step: Mapping[str, Any]) -> str:
    why = f"  {step['why']}" if step["why"] else ""
    return f"{step['status']:8} {step['seconds']:8.1f} s  {step['step']}{why}"


def _last(stderr: str | None) -> list[str]:
    return [f"  {line}" for line in (stderr or "it said nothing").splitlines()[-_STDERR_LINES:]]


def write(document: Mapping[str, Any], folder: Path) -> Path:
    """``report.json``, which is returned, and ``report.txt`` beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.json"
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
    path.with_suffix(".txt").write_text(as_text(document))
    return path
