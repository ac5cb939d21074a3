"""``sevfork verify``: what it recognises, finds, prints and exits with."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from sevfork.attest.defaults import policy_toml
from sevfork.attest.evidence import Evidence
from sevfork.attest.guest_policy import guest_policy_toml
from sevfork.attest.verify import Expected, judge
from sevfork.cli.main import run
from sevfork.cli.options import App
from sevfork.errors import AttestationFailed, UsageError
from sevfork.simulated.processor import SimulatedProcessor
from sevfork.technology import Technology
from sevfork.verifier import evidence_files as use_case
from sevfork.verifier.evidence_files import Pool, recognise
from tests.support import fake_amd
from tests.support import snp_samples as samples
from tests.support.fake_amd import (
    EXPIRED,
    NOW,
    REPORT_DATA,
    Part,
    authority,
    failed,
    revocation_list,
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


# Recognising


def test_raw_report_is_recognised() -> None:
    report = Part().report()
    assert recognise(report) == Evidence(Technology.SEV_SNP, report, b"")


def test_hexadecimal_with_line_breaks_is_recognised() -> None:
    report = Part().report()
    text = "\n".join(report.hex().upper()[i : i + 64] for i in range(0, 2368, 64)) + "\n"
    assert recognise(text.encode()).report == report


def test_hexadecimal_with_a_prefix_is_recognised() -> None:
    report = Part().report()
    assert recognise(b"0x" + report.hex().encode()).report == report


def test_report_with_its_certificate_table_behind_it_is_recognised() -> None:
    evidence = Part().evidence()
    assert recognise(evidence.report + evidence.certificates) == evidence


def test_saved_evidence_is_recognised() -> None:
    evidence = replace(Part().evidence(), technology=Technology.SIMULATED)
    assert recognise(evidence.encode()) == evidence


def test_quotes_of_both_versions_are_recognised() -> None:
    for version in (4, 5):
        quote = bytes([version, 0, 2, 0, 0x81, 0, 0, 0]) + bytes(1200)
        assert recognise(quote).technology is Technology.TDX


@pytest.mark.parametrize("version", [4, 5])
def test_report_of_the_same_version_is_no_quote(version: int) -> None:
    assert recognise(Part(version=version).report()).technology is Technology.SEV_SNP


@given(st.binary(max_size=1300))
def test_no_file_ends_in_a_traceback(data: bytes) -> None:
    with contextlib.suppress(AttestationFailed):
        recognise(data)


@given(st.lists(st.binary(max_size=200) | st.just(b"{}"), max_size=4))
def test_no_folder_ends_in_a_traceback(contents: list[bytes]) -> None:
    Pool.read(contents).complete(Evidence(Technology.SEV_SNP, Part().report(), b""))


# Certificates from files


def pem(name: str, issuer: str | None = None) -> bytes:
    return authority(name, issuer, "ARK").public_bytes(Encoding.PEM)


def test_right_ones_of_many_certificates_are_found() -> None:
    """Other chips, other TCBs, other products, a VLEK, revocation lists old and new."""
    part = Part()
    contents = [
        Part(chip_id=b"\xc2" * 64).certificates().vcek,
        Part(tcb=replace(part.own_tcb, microcode=1)).certificates().vcek,
        Part(product="Genoa").certificates().vcek,
        Part(vlek=True).certificates().vlek,
        b"not a certificate",
        pem("SEV-Genoa", "ARK-Genoa") + pem("ARK-Genoa"),
        pem("SEV-VLEK-Milan", "ARK-Milan"),
        part.certificates().vcek,
        b"text before\n" + pem("SEV-Milan", "ARK-Milan") + b"text between\n" + pem("ARK-Milan"),
        revocation_list("Genoa"),
        revocation_list(number=2),
        revocation_list(number=1, valid=EXPIRED),
    ]
    bare = Evidence(Technology.SEV_SNP, part.report(), b"")
    for ordered in (contents, contents[::-1]):
        complete = Pool.read(ordered).complete(bare)
        policy = fake_amd.snp_policy(crl="required", minimum_crl_number=2)
        assert failed(judge(complete, policy, Expected(REPORT_DATA), NOW)) == []


def test_what_came_with_the_evidence_stays() -> None:
    evidence = Part().evidence()
    other = Part(chip_id=b"\xc2" * 64).certificates()
    assert Pool.read([other.vcek, other.ask]).complete(evidence) == evidence


def test_wrong_leaf_is_taken_if_it_is_all_there_is_and_rejected() -> None:
    part, other = Part(), Part(chip_id=b"\xc2" * 64)
    table = other.certificates()
    bare = Evidence(Technology.SEV_SNP, part.report(), b"")
    complete = Pool.read([table.vcek, table.ask, table.ark]).complete(bare)
    verdict = judge(complete, fake_amd.policy(), Expected(REPORT_DATA), NOW)
    assert failed(verdict) == ["hardware id of the certificate"]


def test_malformed_table_is_left_for_the_verdict() -> None:
    evidence = Evidence(Technology.SEV_SNP, Part().report(), b"\1" * 30)
    assert Pool.read([]).complete(evidence) == evidence
    assert failed(judge(evidence, fake_amd.policy(), Expected(REPORT_DATA), NOW)) == [
        "certificates"
    ]


# The command


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
    processor = SimulatedProcessor.load_or_create(tmp_path / "home/.local/share/sevfork/simulator")
    evidence = processor.report(b"m" * 48, b"h" * 32, b"i" * 32, REPORT_DATA)
    file = write(tmp_path, "evidence", evidence.encode())
    refused = verify(file)
    assert (refused.code, refused.out) == (21, "")
    assert "--allow-simulated" in refused.err
    allowed = verify(file, "--allow-simulated")
    assert allowed.code == 0
    assert allowed.out.startswith("technology: simulated, not confidential")
    assert allowed.out.endswith("(simulated, not confidential)\n")


def test_simulated_evidence_under_an_images_policy_needs_to_be_asked_for_too(
    verify: Callable[..., Done], tmp_path: Path
) -> None:
    processor = SimulatedProcessor.load_or_create(tmp_path / "elsewhere")
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
    processor = SimulatedProcessor.load_or_create(tmp_path / "home/.local/share/sevfork/simulator")
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
    assert use_case.parse_time(text) == at


def test_default_policy_accepts_no_simulated_evidence() -> None:
    assert not use_case.default_policy().accepts(Technology.SIMULATED)
    with pytest.raises(UsageError):
        use_case.load_policy(b"[attest]\n")
