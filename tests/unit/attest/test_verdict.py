"""What becomes a VerifiedReport: claims whose checks all passed, of the verdict's technology."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from sevfork.attest.verdict import (
    Check,
    Claims,
    EvidenceRejected,
    LaunchIdentity,
    Verdict,
    _verified,
)
from sevfork.technology import Technology

SNP, TDX = Technology.SEV_SNP, Technology.TDX
GOOD = Check("signature", "good", "good", passed=True)
CLAIMS = Claims(SNP, bytes(64), bytes(32), LaunchIdentity(SNP, ()), None, None)


def test_checks_that_all_passed_make_a_verified_report() -> None:
    assert _verified(CLAIMS, Verdict(SNP, (GOOD,), ())).report_data == bytes(64)


def test_a_verdict_without_checks_has_not_passed() -> None:
    nothing = Verdict(SNP, (), ())
    assert not nothing.passed
    with pytest.raises(EvidenceRejected, match="no checks"):
        _verified(CLAIMS, nothing)


def test_one_failed_check_among_good_ones_is_enough() -> None:
    bad = replace(GOOD, passed=False)
    with pytest.raises(EvidenceRejected, match="signature"):
        _verified(CLAIMS, Verdict(SNP, (GOOD, bad, GOOD), ()))


def test_claims_of_another_technology_than_the_verdicts_are_rejected() -> None:
    with pytest.raises(EvidenceRejected):
        _verified(CLAIMS, Verdict(TDX, (GOOD,), ()))


def test_a_good_verdict_on_nothing_is_rejected() -> None:
    with pytest.raises(EvidenceRejected):
        _verified(None, Verdict(SNP, (GOOD,), ()))
