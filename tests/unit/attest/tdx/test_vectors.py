"""Genuine TDX quotes: each gets the verdict that the samples' own README gives, for that reason."""

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from sevfork.attest.evidence import Evidence
from sevfork.attest.tdx.collateral import Collateral
from sevfork.attest.tdx.quote import Quote
from sevfork.attest.verdict import EvidenceRejected
from sevfork.attest.verify import Expected, verify
from sevfork.attest.x509 import Chain
from sevfork.technology import Technology
from sevfork.verifier.pcs import document_from_answer
from tests.support import REPOSITORY
from tests.support.bits import a_bit_of_every_byte, flipped
from tests.support.certificate_memory import remember_certificates
from tests.support.genuine import sample
from tests.support.tdx_samples import (
    ANY_ATTRIBUTES,
    GENUINE,
    accepted,
    rejected,
    tdx_policy,
)

JUNE_2025 = datetime(2025, 6, 20, tzinfo=UTC)
AUGUST_2025 = datetime(2025, 8, 1, tzinfo=UTC)
FEBRUARY_2026 = datetime(2026, 2, 3, tzinfo=UTC)
POLICY = tdx_policy()
# For samples that come without collateral: their signature path, and the TD itself.
PATH_ONLY = tdx_policy(collateral="optional")


def genuine(name: str, collateral: bytes = b"") -> Evidence:
    return Evidence(Technology.TDX, sample(name), collateral)


def complete() -> Evidence:
    return genuine("dcap-qvl/tdx_quote", sample("dcap-qvl/tdx_quote_collateral.json"))


def test_the_quote_with_complete_collateral_is_up_to_date() -> None:
    verdict = accepted(complete(), POLICY, JUNE_2025).verdict
    statuses = [check.got for check in verdict.checks if check.name == "TCB status"]
    assert statuses == ["UpToDate"]


def test_six_weeks_later_its_collateral_has_expired() -> None:
    failed = rejected(complete(), POLICY, AUGUST_2025)
    assert set(failed) == {
        "validity of the TCB info",
        "validity of the QE identity",
        "validity of the PCK revocation list",
    }
    assert "to 2025-07-19" in failed["validity of the TCB info"]


def test_a_flipped_byte_is_a_signature_error() -> None:
    report = bytearray(complete().report)
    report[48 + 136] ^= 0xFF  # in MRTD
    assert set(rejected(replace(complete(), report=bytes(report)), POLICY, JUNE_2025)) == {
        "signature"
    }


def test_the_debug_td_has_a_good_signature_and_is_rejected_for_debug() -> None:
    evidence = genuine("trustee/tdx/tdx_quote_4.dat")
    assert rejected(evidence, PATH_ONLY, FEBRUARY_2026) == {
        "TD attributes": "debug, sept-ve-disable"
    }
    lenient = tdx_policy(collateral="optional", attributes=ANY_ATTRIBUTES)
    assert accepted(evidence, lenient, FEBRUARY_2026).verdict.passed


def test_the_td_with_a_service_td_has_a_good_signature_and_may_be_rejected_for_it() -> None:
    evidence = genuine("trustee/tdx/tdx_quote_5.dat")
    assert accepted(evidence, PATH_ONLY, FEBRUARY_2026).verdict.passed
    none = tdx_policy(collateral="optional", mrservicetd=("00" * 48,))
    assert set(rejected(evidence, none, FEBRUARY_2026)) == {"MRSERVICETD"}


def test_the_version_5_quote_passes_at_its_time_and_not_before() -> None:
    evidence = genuine("go-tdx-guest/quote_v5_sample.dat")
    assert accepted(evidence, PATH_ONLY, FEBRUARY_2026).verdict.passed
    early = datetime(2026, 1, 26, tzinfo=UTC)
    assert set(rejected(evidence, PATH_ONLY, early)) == {"validity of the PCK chain"}


@pytest.mark.parametrize("name", GENUINE)
def test_without_collateral_no_genuine_quote_passes_a_policy_that_requires_it(name: str) -> None:
    assert "collateral" in rejected(genuine(name), POLICY, FEBRUARY_2026)


def test_the_collateral_of_2023_gives_the_debug_td_its_tcb_level() -> None:
    signers = Collateral.decode(sample("dcap-qvl/tdx_quote_collateral.json")).tcb_info.issuer_chain
    collateral = Collateral(
        document_from_answer(sample("go-tdx-guest/sample_tcbInfo_response"), signers),
        document_from_answer(sample("go-tdx-guest/sample_qeIdentity_response"), signers),
        sample("go-tdx-guest/rootcrl.der"),
        sample("go-tdx-guest/pckcrl"),
    )
    evidence = genuine("trustee/tdx/tdx_quote_4.dat", collateral.encode())
    # The signing certificate of 2025 has the key of 2023: Intel prolonged it.
    assert set(rejected(evidence, POLICY, datetime(2023, 7, 1, tzinfo=UTC))) == {
        "TD attributes",
        "validity of the TCB info's signing chain",
        "validity of the QE identity's signing chain",
    }


def test_the_tcb_info_of_another_fmspc_does_not_do() -> None:
    theirs = Collateral.decode(complete().certificates)
    response = sample("go-tdx-guest/sample_tcbinfo_response_v5")
    ours = replace(theirs, tcb_info=document_from_answer(response, theirs.tcb_info.issuer_chain))
    failed = rejected(replace(complete(), certificates=ours.encode()), POLICY, FEBRUARY_2026)
    assert failed["FMSPC and PCE id of the TCB info"] == "90c06f000000, 0000"


def test_genuine_collateral_with_changed_whitespace_is_rejected() -> None:
    text = complete().certificates.decode()
    respaced = text.replace('\\"version\\":3', '\\"version\\": 3')
    assert respaced != text
    changed = replace(complete(), certificates=respaced.encode())
    assert set(rejected(changed, POLICY, JUNE_2025)) == {"TCB info"}


# every bit: up to the certificates, whose chain is the same in all of them


@pytest.fixture
def _certificates_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    remember_certificates(monkeypatch)


def _authenticated_size(report: bytes) -> int:
    """Header to QE authentication data: everything but the certificates and the padding."""
    return report.index(Quote.decode(report).signature.pck_chain_pem)


def _rejects_flip(evidence: Evidence, bit: int) -> bool:
    changed = replace(evidence, report=flipped(evidence.report, bit))
    expected = Expected(Quote.decode(evidence.report).td_report.report_data)
    try:
        verify(changed, PATH_ONLY, expected, FEBRUARY_2026)
    except EvidenceRejected as exc:
        return bool(exc.verdict.failures)
    return False


@pytest.mark.usefixtures("_certificates_are_remembered")
@pytest.mark.parametrize("name", ["dcap-qvl/tdx_quote", "go-tdx-guest/quote_v5_sample.dat"])
def test_a_flipped_bit_in_any_byte_is_rejected(name: str) -> None:
    evidence = genuine(name)
    accepted(evidence, PATH_ONLY, FEBRUARY_2026)
    bits = a_bit_of_every_byte(_authenticated_size(evidence.report))
    assert [bit for bit in bits if not _rejects_flip(evidence, bit)] == []


@pytest.mark.slow
@pytest.mark.usefixtures("_certificates_are_remembered")
@pytest.mark.parametrize("name", ["dcap-qvl/tdx_quote", "go-tdx-guest/quote_v5_sample.dat"])
def test_every_flipped_bit_is_rejected(name: str) -> None:
    evidence = genuine(name)
    bits = range(8 * _authenticated_size(evidence.report))
    assert [bit for bit in bits if not _rejects_flip(evidence, bit)] == []


def _statements(report: bytes) -> list[bytes]:
    """What each certificate of the quote states: the part that its issuer signed."""
    chain = Chain.decode("PCK chain", Quote.decode(report).signature.pck_chain_pem)
    return [certificate.parsed.tbs_certificate_bytes for certificate in chain.certificates]


@pytest.mark.slow
def test_a_bit_flipped_in_the_certificates_is_rejected_or_changes_nothing_they_state() -> None:
    """A line end may become another space, and DER allows a signature's bits to be counted anew."""
    evidence = genuine("go-tdx-guest/quote_v5_sample.dat")
    wanted = _statements(evidence.report)
    for bit in range(8 * _authenticated_size(evidence.report), 8 * len(evidence.report)):
        if not _rejects_flip(evidence, bit):
            assert _statements(flipped(evidence.report, bit)) == wanted


@pytest.mark.parametrize(
    "name", ["trustee/tdx/tdx_quote_5.dat", "go-tdx-guest/quote_v5_sample.dat"]
)
def test_every_truncation_is_rejected(name: str) -> None:
    evidence = genuine(name)
    report_data = Quote.decode(evidence.report).td_report.report_data
    for size in range(len(evidence.report)):
        cut = replace(evidence, report=evidence.report[:size])
        assert rejected(cut, PATH_ONLY, FEBRUARY_2026, report_data)


def test_the_samples_folder_is_not_part_of_the_project() -> None:
    repository = REPOSITORY
    assert not list(repository.joinpath("tests").rglob("*.dat"))
