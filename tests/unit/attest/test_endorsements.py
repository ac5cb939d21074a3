"""What a host hands over completes evidence, and never with anything older than it did before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from sevfork.attest.endorsements import Endorsements, endorsements
from sevfork.attest.evidence import Evidence
from sevfork.attest.snp.certificates import CertificateTable
from sevfork.attest.tdx.collateral import Collateral
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology
from tests.support.fake_amd import VALID, Part, revocation_list
from tests.support.fake_intel import FakeIntel

DAY = timedelta(days=1)
SNP, TDX = Technology.SEV_SNP, Technology.TDX
PART = Part()
GOOD = PART.certificates()
INTEL = FakeIntel()
LIST = revocation_list()
NEWER_LIST = revocation_list(number=2, valid=(VALID[0] + DAY, VALID[1]))
ISSUED_LATER = {"issueDate": "2026-02-27T10:00:00Z"}


def snp(table: CertificateTable) -> Endorsements:
    return endorsements(SNP, table.encode())


def table_of(evidence: Evidence) -> CertificateTable:
    return CertificateTable.decode(evidence.certificates)


def snp_evidence(table: CertificateTable) -> Evidence:
    return Evidence(SNP, PART.report(), table.encode())


def tdx(intel: FakeIntel) -> Endorsements:
    return endorsements(TDX, intel.collateral().encode())


def test_a_bare_report_is_filled_with_all_that_was_handed_over() -> None:
    handed = replace(GOOD, crl=LIST)
    assert table_of(snp(handed).filled(snp_evidence(CertificateTable()))) == handed


@pytest.mark.parametrize("name", ["vcek", "ask", "ark"])
def test_what_the_evidence_has_stays_and_the_gap_is_filled(name: str) -> None:
    other = replace(Part(chip_id=b"\x99" * 64).certificates(), crl=LIST)
    filled = table_of(snp(other).filled(snp_evidence(replace(GOOD, **{name: b""}))))
    assert filled == replace(GOOD, **{name: getattr(other, name)}, crl=LIST)


def test_complete_evidence_keeps_its_very_bytes() -> None:
    """A host pads its table, and has entries of its own in it."""
    padded = replace(PART.evidence(), certificates=GOOD.encode() + bytes(4096))
    assert snp(GOOD).filled(padded) is padded
    assert snp(GOOD).renewed(padded) is padded


def test_a_newer_list_takes_the_place_of_an_older_one_and_never_the_other_way_round() -> None:
    old, new = (snp_evidence(replace(GOOD, crl=crl)) for crl in (LIST, NEWER_LIST))
    assert table_of(snp(replace(GOOD, crl=NEWER_LIST)).renewed(old)).crl == NEWER_LIST
    assert snp(replace(GOOD, crl=LIST)).renewed(new) is new


def test_a_list_of_another_product_renews_nothing() -> None:
    evidence = snp_evidence(replace(GOOD, crl=LIST))
    foreign = revocation_list("Genoa", valid=(VALID[0] + DAY, VALID[1]))
    assert snp(replace(GOOD, crl=foreign)).renewed(evidence) is evidence


def test_a_list_is_not_taken_back_by_handing_over_an_older_one() -> None:
    held = endorsements(SNP, replace(GOOD, crl=NEWER_LIST).encode())
    for crl in (LIST, b""):
        later = endorsements(SNP, replace(GOOD, crl=crl).encode()).after(held)
        assert table_of(later.filled(snp_evidence(CertificateTable()))).crl == NEWER_LIST


def test_the_certificate_of_new_firmware_takes_the_place_of_the_old_ones() -> None:
    new = Part(chip_id=b"\x99" * 64).certificates()
    held = snp(new).after(snp(GOOD))
    assert table_of(held.filled(snp_evidence(CertificateTable()))).vcek == new.vcek


@pytest.mark.parametrize("certificates", [b"", b"{", bytes(23), b"\xff" * 100])
def test_what_cannot_be_read_in_evidence_is_left_for_the_verdict(certificates: bytes) -> None:
    unread = Evidence(SNP, PART.report(), certificates or b"\1")
    assert snp(replace(GOOD, crl=LIST)).renewed(unread) is unread
    assert snp(GOOD).filled(unread) is unread
    quote = Evidence(TDX, INTEL.quote(), certificates or b"\1")
    assert tdx(INTEL).renewed(quote) is quote
    assert tdx(INTEL).filled(quote) is quote


@pytest.mark.parametrize("name", ["vcek", "vlek", "ask", "ark", "crl"])
def test_a_table_with_an_entry_that_cannot_be_read_is_refused(name: str) -> None:
    with pytest.raises(AttestationFailed, match="malformed"):
        snp(replace(GOOD, **{name: b"0\x82 no certificate"}))


def test_a_bare_quote_is_filled_with_the_collateral() -> None:
    bare = replace(INTEL.evidence(), certificates=b"")
    collateral = INTEL.collateral()
    handed = endorsements(TDX, collateral.encode())
    assert Collateral.decode(handed.filled(bare).certificates) == collateral


def newer_parts(intel: FakeIntel) -> set[str]:
    """The parts of the good evidence that are renewed by what this Intel issued."""
    evidence = INTEL.evidence()
    before, after = (
        Collateral.decode(each.certificates) for each in (evidence, tdx(intel).renewed(evidence))
    )
    return {
        name for name in before.__struct_fields__ if getattr(before, name) != getattr(after, name)
    }


@pytest.mark.parametrize(
    ("intel", "parts"),
    [
        (INTEL, set()),
        (INTEL.but(tcb=ISSUED_LATER), {"tcb_info"}),
        (INTEL.but(qe=ISSUED_LATER), {"qe_identity"}),
        (INTEL.but(tcb={"issueDate": "2026-02-01T10:00:00Z"}), set()),
        (INTEL.but(tcb=ISSUED_LATER, fmspc=bytes(6)), set()),
    ],
)
def test_documents_renew_older_ones_of_the_same_platform(intel: FakeIntel, parts: set[str]) -> None:
    # Signatures are drawn anew each time: what was not renewed is the evidence's own, bit by bit.
    assert newer_parts(intel) == parts


def test_documents_are_not_taken_back_either() -> None:
    held = tdx(INTEL.but(tcb=ISSUED_LATER))
    later = endorsements(TDX, INTEL.collateral().encode()).after(held)
    bare = replace(INTEL.evidence(), certificates=b"")
    filled = Collateral.decode(later.filled(bare).certificates)
    assert filled.tcb_info.as_tcb_info().issue_date == datetime(2026, 2, 27, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "data", [b"", b"{}", INTEL.collateral().encode()[:-1], replace(GOOD, crl=LIST).encode()]
)
def test_what_is_no_collateral_is_refused(data: bytes) -> None:
    with pytest.raises(AttestationFailed):
        endorsements(TDX, data)


def test_collateral_with_a_part_that_cannot_be_read_is_refused() -> None:
    good = INTEL.collateral()
    for part in ({"pck_crl": b"0"}, {"tcb_info": replace(good.tcb_info, text=b"{}")}):
        with pytest.raises(AttestationFailed):
            endorsements(TDX, replace(good, **part).encode())
