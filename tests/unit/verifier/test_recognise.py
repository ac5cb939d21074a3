"""What ``sevfork verify`` recognises in a file."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sevfork.attest.evidence import Evidence
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology
from sevfork.verifier.recognise import recognise
from tests.support.fake_amd import Part


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
