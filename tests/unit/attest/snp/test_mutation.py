"""No changed bit and no cut report passes, of a report signed by us and of a genuine one."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sevfork.attest.evidence import Evidence
from sevfork.attest.policy import Policy
from sevfork.attest.snp.certificates import CertificateTable
from sevfork.attest.verify import Expected, judge
from tests.support import fake_amd
from tests.support.bits import a_bit_of_every_byte, flipped
from tests.support.certificate_memory import remember_certificates
from tests.support.fake_amd import NOW, REPORT_DATA, Part
from tests.support.snp_samples import AMD_POLICY, milan_baseline

_SIZE = 1184
_BITS = 8 * _SIZE


@pytest.fixture(autouse=True)
def _certificates_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    remember_certificates(monkeypatch)


def passes(evidence: Evidence, report: bytes, policy: Policy, at: datetime) -> bool:
    changed = Evidence(evidence.technology, report, evidence.certificates)
    return judge(changed, policy, None, at).passed


def survivors(evidence: Evidence, policy: Policy, bits: list[int]) -> list[int]:
    """The flipped bits that verification did not notice."""
    report = evidence.report
    assert passes(evidence, report, policy, NOW)
    return [bit for bit in bits if passes(evidence, flipped(report, bit), policy, NOW)]


def test_a_bit_flip_in_any_byte_is_rejected() -> None:
    assert survivors(Part().evidence(), fake_amd.policy(), a_bit_of_every_byte(_SIZE)) == []


@pytest.mark.slow
def test_every_bit_flip_is_rejected() -> None:
    assert survivors(Part().evidence(), fake_amd.policy(), list(range(_BITS))) == []


def test_a_bit_flip_in_any_byte_of_a_genuine_report_is_rejected(vectors: Path) -> None:
    assert survivors(milan_baseline(vectors), AMD_POLICY, a_bit_of_every_byte(_SIZE)) == []


@pytest.mark.slow
def test_every_bit_flip_of_a_genuine_report_is_rejected(vectors: Path) -> None:
    assert survivors(milan_baseline(vectors), AMD_POLICY, list(range(_BITS))) == []


def test_every_truncation_is_rejected() -> None:
    evidence = Part().evidence()
    cut = [evidence.report[:size] for size in range(len(evidence.report))]
    assert not any(passes(evidence, report, fake_amd.policy(), NOW) for report in cut)


def test_every_truncation_of_the_certificates_is_rejected() -> None:
    evidence = Part().evidence()
    for size in range(0, len(evidence.certificates), 7):
        cut = Evidence(evidence.technology, evidence.report, evidence.certificates[:size])
        assert not judge(cut, fake_amd.policy(), Expected(REPORT_DATA), NOW).passed


def test_no_flipped_bit_of_the_leaf_certificate_passes() -> None:
    """Wherever it hits the DER: names, TCB, key, signature, or the algorithm nobody signs."""
    evidence = Part().evidence()
    leaf = CertificateTable.decode(evidence.certificates).vcek
    start = evidence.certificates.index(leaf)
    places = random.Random(2).sample(range(8 * len(leaf)), 1000)  # noqa: S311
    for bit in places:
        certificates = flipped(evidence.certificates, 8 * start + bit)
        changed = Evidence(evidence.technology, evidence.report, certificates)
        assert not judge(changed, fake_amd.policy(), None, datetime(2026, 3, 1, tzinfo=UTC)).passed
