"""The report: its verdict, its two forms, and a whole run on hardware that is a fake."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from scripts.hardware import __main__ as command
from scripts.hardware import machine
from scripts.hardware.report import Report, as_text, write
from scripts.hardware.running import Outcome, Ran, Status
from scripts.hardware.session import Session, choose
from scripts.hardware.steps import Step
from sevfork.technology import Technology
from tests.support import REPOSITORY
from tests.support.fake_amd import Part
from tests.unit.hardware.fake_runner import FakeRunner

NOW = datetime(2026, 11, 26, tzinfo=UTC)
MACHINE = {"sevfork": "0.1.0", "commit": "abc", "kernel": "6.12", "board": {"a": "b"}}
PASSED = Outcome("host", "doctor --json", Status.PASSED, 1.0, data={"schema": 1})
FAILED = Outcome("launch", "up x", Status.FAILED, 2.0, "exit code 30", stderr="it hung\nin the end")
SKIPPED = Outcome("fork", "fork x", Status.SKIPPED, why="'launch' did not pass")
CHIP = Part().own_chip_id.hex()


def report(*outcomes: Outcome) -> Report:
    evidence = {"parent": Part().evidence()}
    return Report(Technology.SEV_SNP, MACHINE, outcomes, evidence, {"x": f"booted on {CHIP}"})


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([PASSED], "passed"),
        ([PASSED, SKIPPED], "incomplete"),
        ([PASSED, FAILED, SKIPPED], "failed"),
        ([], "incomplete"),
    ],
)
def test_only_a_run_of_every_step_has_passed(outcomes: Sequence[Outcome], verdict: str) -> None:
    assert report(*outcomes).verdict == verdict


def test_a_report_has_everything_and_names_no_machine(tmp_path: Path) -> None:
    path = write(report(PASSED, FAILED).document("host-7", NOW), tmp_path)
    document = json.loads(path.read_text())
    assert (document["schema"], document["verdict"]) == (1, "failed")
    assert document["evidence"]["parent"]["technology"] == "sev-snp"
    assert document["logs"]["x"] == "booted on <masked>"
    assert CHIP not in path.read_text()


def test_the_text_says_what_failed_and_how(tmp_path: Path) -> None:
    text = as_text(report(PASSED, FAILED, SKIPPED).document("host-7", NOW))
    assert "sevfork on hardware: sev-snp, failed" in text
    assert "  in the end" in text
    assert "'launch' did not pass" in text
    write(report(PASSED).document("host-7", NOW), tmp_path)
    assert "passed" in (tmp_path / "report.txt").read_text()


# A whole run


def doctor(*technologies: str) -> Ran:
    lacks = {"subject": "AMD SEV-SNP", "verdict": "limited", "found": "old QEMU", "remedy": "new"}
    found = {
        "technologies": ["simulated", *technologies],
        "firmware": dict.fromkeys(technologies, "/OVMF.fd"),
        "findings": [lacks],
    }
    return Ran(0, json.dumps(found), "")


def saving(words: Sequence[str]) -> Ran:
    """``attest --save``: evidence as the guest gives it."""
    Path(words[words.index("--save") + 1]).write_bytes(Part().evidence().encode())
    return Ran(0, json.dumps({"facts": {"chip id": CHIP}}), "")


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "describe", lambda _root: MACHINE)
    monkeypatch.setattr(machine, "serial_logs", lambda vm: {vm: "a guest's log"})


def test_without_hardware_it_says_what_is_missing_with_a_code_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = FakeRunner({"doctor": doctor()})
    assert command.examine(runner, None, tmp_path) == 77
    said = capsys.readouterr()
    assert said.out == ""
    assert "AMD SEV-SNP: old QEMU\n    new" in said.err
    assert runner.ran == [["doctor", "--json"]]
    assert not list(tmp_path.iterdir())


def test_a_technology_that_is_not_there_is_missing_whatever_else_is() -> None:
    found = {"technologies": ["simulated", "sev-snp", "tdx"]}
    assert choose(found, None) is Technology.SEV_SNP
    assert choose(found, "tdx") is Technology.TDX
    assert choose({"technologies": ["sev-snp"]}, "tdx") is None


def test_a_doctor_that_says_nothing_is_a_failure(tmp_path: Path) -> None:
    assert command.examine(FakeRunner({"doctor": Ran(1, "", "broken")}), None, tmp_path) == 1


@pytest.mark.usefixtures("described")
def test_a_run_writes_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner = FakeRunner({"doctor": doctor("sev-snp"), "attest": saving})
    command.examine(runner, None, tmp_path)
    document = json.loads((tmp_path / "report.json").read_text())
    assert {step["step"] for step in document["steps"]} >= {"host", "image", "launch", "evidence"}
    assert document["evidence"]["parent"]["technology"] == "sev-snp"
    assert CHIP not in (tmp_path / "report.json").read_text()
    assert "please send us" in capsys.readouterr().err


@pytest.mark.usefixtures("described")
def test_an_image_that_is_there_is_not_built(tmp_path: Path) -> None:
    runner = FakeRunner({"doctor": doctor("tdx")})
    command.examine(runner, None, tmp_path, Path("/made/elsewhere"))
    assert not [words for words in runner.ran if words[0] == "guest"]
    (up,) = (words for words in runner.ran if words[0] == "up")
    assert up[up.index("--image") + 1] == "/made/elsewhere"


@pytest.mark.usefixtures("described")
def test_a_launch_that_fails_brings_the_logs(tmp_path: Path) -> None:
    runner = FakeRunner({"doctor": doctor("tdx"), "up": Ran(30, "", "not ready")})
    assert command.examine(runner, None, tmp_path) == 1
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["verdict"] == "failed"
    assert list(document["logs"].values()) == ["a guest's log"]


# What a run leaves behind


def session(runner: FakeRunner, work: Path, logs: Mapping[str, str] | None = None) -> Session:
    return Session(
        runner=runner,
        technology=Technology.TDX,
        vm="hardware-1",
        work=work,
        image=work / "image",
        workload=Path("/w.toml"),
        firmware="/OVMF.fd",
        logs=lambda _vm: logs or {},
        say=lambda _text: None,
    )


def listing(*names: str) -> Ran:
    return Ran(0, json.dumps({"vms": [{"name": name} for name in names]}), "")


def test_its_own_vms_are_removed_and_no_other(tmp_path: Path) -> None:
    runner = FakeRunner({"ls": listing("hardware-1", "hardware-1-fork2", "hardware-11", "web")})
    session(runner, tmp_path).run([Step("x", "up {vm}")], ["up"])
    assert runner.ran[-1] == ["rm", "hardware-1", "hardware-1-fork2"]


def test_they_are_removed_when_a_run_is_broken_off(tmp_path: Path) -> None:
    def interrupted(_words: Sequence[str]) -> Ran:
        raise KeyboardInterrupt

    runner = FakeRunner({"up": interrupted, "ls": listing("hardware-1")})
    with pytest.raises(KeyboardInterrupt):
        session(runner, tmp_path).run([Step("x", "up {vm}")], ["up"])
    assert runner.ran[-1] == ["rm", "hardware-1"]


def test_the_owners_passphrase_is_nobody_elses_to_read(tmp_path: Path) -> None:
    session(FakeRunner({"ls": listing()}), tmp_path).run([], [])
    assert (tmp_path / "passphrase").stat().st_mode & 0o777 == 0o600
    assert len((tmp_path / "passphrase").read_text().strip()) == 64


@pytest.mark.own_processes
def test_a_machine_says_what_it_is_and_no_serial_number() -> None:
    described: dict[str, Any] = machine.describe(REPOSITORY)
    json.dumps(described)
    assert described["kernel"]
    assert not [name for name in described["board"] if "serial" in name or "uuid" in name]
