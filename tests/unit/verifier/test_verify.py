"""``sevfork verify``: what it prints and exits with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sevfork.attest.defaults import policy_toml
from sevfork.attest.guest_policy import guest_policy_toml
from sevfork.cli.main import run
from sevfork.cli.options import App
from sevfork.errors import UsageError
from sevfork.technology import Technology
from sevfork.verifier.policies import decode_policy, default_policy
from sevfork.verifier.verify import parse_time
from tests.support import fake_amd, simulators
from tests.support import snp_samples as samples
from tests.support.fake_amd import (
    NOW,
    REPORT_DATA,
    Part,
)

WHEN = "2025-06-01"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def verify(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Done]:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)

    def call(*arguments: object) -> Done:
        code = run(App(), ["verify", *map(str, arguments)])
        return Done(code, *capsys.readouterr())

    return call


def write(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    return path


def test_genuine_report_passes_with_its_folder(verify: Callable[..., Done], vectors: Path) -> None:
    folder = vectors / "virtee-sev"
    done = verify(folder / "report_milan.hex", "--certs", folder, "--at", WHEN)
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("PASSED: all 33 checks\n")
    assert "ok    root: 69d063b4" in done.out
    assert "guest policy: 0x30000 (smt)" in done.out
    assert "microcode 115 (at least bootloader 0" in done.out
    assert "time not trusted" in done.out


def test_debuggable_guest_exits_with_20_and_says_why(
    verify: Callable[..., Done], vectors: Path
) -> None:
    folder = vectors / "go-sev-guest"
    done = verify(folder / "attestation.bin", "--certs", folder, "--at", WHEN)
    assert done.code == 20
    assert "got    smt, debug" in done.out
    assert done.out.endswith("FAILED: 1 of 33 checks\n")
    assert done.err.startswith("error: the evidence was rejected: guest policy: wanted at most")


def test_two_folders_and_a_clock_for_the_vlek_sample(
    verify: Callable[..., Done], vectors: Path
) -> None:
    folder, trust = vectors / "trustee/snp", vectors / "go-sev-guest/trust"
    report = folder / "test-vlek-report.bin"
    done = verify(report, "--certs", folder, "--certs", trust, "--at", WHEN, "--json")
    document = json.loads(done.out)
    names = [check["name"] for check in document["checks"] if not check["passed"]]
    assert (done.code, names) == (20, ["running TCB", "chip id", "VMPL"])


def test_json_has_a_schema_and_every_check(verify: Callable[..., Done], vectors: Path) -> None:
    folder = vectors / "virtee-sev"
    done = verify(folder / "report_milan.hex", "--certs", folder, "--at", WHEN, "--json")
    document = json.loads(done.out)
    assert list(document) == [
        "schema", "verdict", "technology", "confidential", "checks", "not_checked", "facts",
        "warnings",
    ]  # fmt: skip
    assert (document["schema"], document["verdict"]) == (1, "passed")
    assert (document["technology"], document["confidential"]) == ("sev-snp", True)
    assert len(document["checks"]) == 33
    assert all(check["wanted"] and check["passed"] for check in document["checks"])


def test_report_data_is_compared(verify: Callable[..., Done], vectors: Path) -> None:
    folder = vectors / "virtee-sev"
    data = samples.milan_baseline(vectors).report[0x50:0x90]
    call = (folder / "report_milan.hex", "--certs", folder, "--at", WHEN, "--report-data")
    assert verify(*call, data.hex()).code == 0
    wrong = verify(*call, bytes(64).hex())
    assert wrong.code == 20
    assert "FAIL  report data" in wrong.out


def test_missing_certificates_come_with_a_hint(verify: Callable[..., Done], tmp_path: Path) -> None:
    done = verify(write(tmp_path, "report", Part().report()))
    assert done.code == 20
    assert "hint: give certificate files with --certs" in done.err


def test_policy_file_decides(verify: Callable[..., Done], tmp_path: Path) -> None:
    report = write(tmp_path, "report", Part().evidence().encode())
    text = policy_toml([Technology.SEV_SNP], fake_amd.roots(), NOW, minimum_tcb={})
    policy = write(tmp_path, "policy.toml", text.encode())
    done = verify(report, "--policy", policy, "--at", "2026-03-02")
    assert done.code == 20
    assert "FAIL  TCB of the certificate" in done.out
    assert "FAIL  root" not in done.out
    assert "FAIL  root" in verify(report, "--at", "2026-03-02").out


def test_faulty_policy_file_is_a_usage_error(verify: Callable[..., Done], tmp_path: Path) -> None:
    report = write(tmp_path, "report", Part().report())
    done = verify(report, "--policy", write(tmp_path, "policy.toml", b"schema = 1\n"))
    assert (done.code, done.out) == (2, "")
    assert "the attestation policy is not valid" in done.err


def test_simulated_evidence_needs_to_be_asked_for(
    verify: Callable[..., Done], tmp_path: Path
) -> None:
    processor = simulators.install(tmp_path / "home/.local/share/sevfork/simulator")
    evidence = processor.report(b"m" * 48, b"h" * 32, b"i" * 32, REPORT_DATA)
    file = write(tmp_path, "evidence", evidence.encode())
    refused = verify(file)
    assert (refused.code, refused.out) == (21, "")
    assert "--allow-simulated" in refused.err
    allowed = verify(file, "--allow-simulated")
    assert allowed.code == 0
    assert allowed.out.startswith("technology: simulated, not confidential")
    assert allowed.out.endswith("(simulated, not confidential)\n")
    assert "warnings:" not in allowed.out


def test_simulated_evidence_under_an_images_policy_needs_to_be_asked_for_too(
    verify: Callable[..., Done], tmp_path: Path
) -> None:
    processor = simulators.processor("two")
    evidence = processor.report(b"m" * 48, b"h" * 32, b"i" * 32, REPORT_DATA)
    file = write(tmp_path, "evidence", evidence.encode())
    text = guest_policy_toml(Technology.SIMULATED, "anyone", [processor.root_fingerprint], NOW)
    policy = write(tmp_path, "policy.toml", text.encode())
    assert verify(file, "--policy", policy).code == 21
    assert verify(file, "--policy", policy, "--allow-simulated").code == 0
    assert verify(file, "--allow-simulated").code == 20  # not the root of this host's own


def test_simulated_report_stripped_of_its_label_is_rejected(
    verify: Callable[..., Done], tmp_path: Path
) -> None:
    processor = simulators.install(tmp_path / "home/.local/share/sevfork/simulator")
    evidence = processor.report(b"m" * 48, b"h" * 32, b"i" * 32, REPORT_DATA)
    file = write(tmp_path, "report", evidence.report + evidence.certificates)
    done = verify(file, "--allow-simulated")
    assert done.code == 20
    assert "FAIL  product" in done.out


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"garbage", bytes(1184), b"\2" * 1183, b"\1\1\0\0"]
)
def test_file_that_is_no_evidence_is_rejected(
    verify: Callable[..., Done], tmp_path: Path, content: bytes
) -> None:
    done = verify(write(tmp_path, "file", content))
    assert (done.code, done.out) == (20, "")
    assert done.err.startswith("error: ")


def test_explanation_says_what_is_not_proved(verify: Callable[..., Done], vectors: Path) -> None:
    alone = verify("--explain")
    assert alone.code == 0
    assert alone.out.startswith("What a passing verdict does not prove:")
    folder = vectors / "virtee-sev"
    both = verify(folder / "report_milan.hex", "--certs", folder, "--at", WHEN, "--explain")
    assert both.out.endswith(alone.out)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--at", "yesterday"),
        ("--report-data", "00"),
        ("--report-data", "xy" * 64),
        ("--certs", "/nowhere"),
    ],
)
def test_faulty_command_line_is_a_usage_error(
    verify: Callable[..., Done], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    file = [write(tmp_path, "report", Part().report())] if arguments else []
    assert verify(*file, *arguments).code == 2


def test_absent_file_is_a_usage_error(verify: Callable[..., Done], tmp_path: Path) -> None:
    assert verify(tmp_path / "absent").code == 2


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T12:00:00Z", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        ("2026-03-01T12:00:00+02:00", datetime(2026, 3, 1, 10, tzinfo=UTC)),
    ],
)
def test_times_without_a_zone_are_utc(text: str, at: datetime) -> None:
    assert parse_time(text) == at


def test_default_policy_accepts_no_simulated_evidence() -> None:
    assert not default_policy().accepts(Technology.SIMULATED)
    with pytest.raises(UsageError):
        decode_policy(b"[attest]\n")
