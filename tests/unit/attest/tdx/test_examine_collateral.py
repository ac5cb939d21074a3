"""Collateral and revocation lists of a quote."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

from msgspec.structs import replace

from sevfork.attest.evidence import Evidence
from sevfork.attest.tdx.collateral import SignedJson
from sevfork.technology import Technology
from tests.support.fake_intel import (
    NOW,
    ROOT,
    TCB_SIGNER,
    Certificate,
)
from tests.support.tdx_examined import DAY, INTEL, POLICY, evidence, failures
from tests.support.tdx_samples import accepted, rejected, tdx_policy


def test_no_collateral_is_rejected_where_the_policy_requires_it() -> None:
    bare = Evidence(Technology.TDX, INTEL.quote(), b"")
    assert set(rejected(bare, POLICY, NOW)) == {"collateral"}


def test_no_collateral_where_it_is_optional_is_named_as_not_checked() -> None:
    bare = Evidence(Technology.TDX, INTEL.quote(), b"")
    report = accepted(bare, tdx_policy(INTEL.root_sha256, collateral="optional"), NOW)
    assert any("TCB level" in what for what in report.verdict.not_checked)
    assert any("TCB level" in what for what in report.verdict.warnings)


def test_bad_collateral_is_rejected_even_where_it_is_optional() -> None:
    bad = Evidence(Technology.TDX, INTEL.quote(), b"{}")
    policy = tdx_policy(INTEL.root_sha256, collateral="optional")
    assert set(rejected(bad, policy, NOW)) == {"collateral"}


def test_expired_collateral_is_rejected() -> None:
    late = datetime(2026, 4, 1, tzinfo=UTC)
    assert set(failures(INTEL, at=late)) == {
        "validity of the TCB info",
        "validity of the QE identity",
        "validity of the root revocation list",
        "validity of the PCK revocation list",
    }


def test_collateral_of_the_future_is_rejected() -> None:
    early = INTEL.but(tcb={"issueDate": "2026-03-02T00:00:00Z"})
    assert set(failures(early)) == {"validity of the TCB info"}


def _respaced(document: SignedJson) -> SignedJson:
    return replace(document, text=document.text.replace(b",", b", ", 1))


def test_collateral_with_changed_whitespace_is_rejected() -> None:
    collateral = INTEL.collateral()
    for name in ("tcb_info", "qe_identity"):
        respaced = evidence(INTEL, **{name: _respaced(getattr(collateral, name))})
        failed = rejected(respaced, POLICY, NOW)
        assert len(failed) == 1
        assert "was changed" in next(iter(failed.values()))


def test_a_document_that_a_pck_key_signed_is_rejected() -> None:
    as_pck = replace(INTEL.collateral().tcb_info, issuer_chain=INTEL.pck_chain())
    assert set(rejected(evidence(INTEL, tcb_info=as_pck), POLICY, NOW)) == {"TCB info"}


def test_an_expired_tcb_signer_is_rejected() -> None:
    expired = INTEL.but(signer=dataclasses.replace(INTEL.signer, end=NOW - DAY))
    assert set(failures(expired)) == {
        "validity of the TCB info's signing chain",
        "validity of the QE identity's signing chain",
    }


def test_collateral_under_an_attackers_own_intel_root_is_rejected() -> None:
    """All signed, named and current, down from a root that calls itself Intel's and is not."""
    root = Certificate("attacker", "attacker", ca=True, common_name=ROOT, issuer_name=ROOT)
    signer = Certificate(TCB_SIGNER, "attacker", ca=False, serial=79, issuer_name=ROOT)
    forged = INTEL.but(collateral_root=root, signer=signer)
    wanted = "root of the TCB info's signing chain", "root of the QE identity's signing chain"
    assert set(failures(forged)) == set(wanted)


def test_a_tcb_signing_key_on_another_curve_is_rejected() -> None:
    other = f"{TCB_SIGNER} on K1"
    signer = Certificate(other, ROOT, ca=False, serial=79, common_name=TCB_SIGNER)
    failed = failures(INTEL.but(signer=signer))
    assert set(failed) == {"TCB info", "QE identity"}
    assert all("not on secp256r1" in why for why in failed.values())


def test_a_tcb_info_in_place_of_the_qe_identity_is_rejected() -> None:
    tcb_info = replace(INTEL.collateral().tcb_info, what="QE identity")
    assert set(rejected(evidence(INTEL, qe_identity=tcb_info), POLICY, NOW)) == {
        "kind of the QE identity"
    }


def test_tcb_info_of_another_fmspc_is_rejected() -> None:
    foreign = INTEL.but(tcb={"fmspc": "50806F000000"})
    assert failures(foreign) == {"FMSPC and PCE id of the TCB info": "50806f000000, 0000"}


def test_tcb_info_for_sgx_is_rejected() -> None:
    assert set(failures(INTEL.but(tcb={"id": "SGX"}))) == {"kind of the TCB info"}


def test_the_qe_identity_for_sgx_is_rejected() -> None:
    failed = failures(INTEL.but(qe={"id": "QE"}))
    assert failed == {
        "kind of the QE identity": "QE identity is 'QE' version 2, not 'TD_QE' version 2"
    }


def test_an_older_tcb_evaluation_number_than_the_policys_floor_is_rejected() -> None:
    failed = failures(INTEL, minimum_tcb_evaluation_number=19)
    assert set(failed.values()) == {"18"}


def test_a_quoting_enclave_that_is_not_the_identitys_is_rejected() -> None:
    failed = failures(INTEL.but(qe={"attributes": "15000000000000000000000000000000",
                                    "attributesMask": "FF" * 16}))  # fmt: skip
    assert set(failed) == {"TCB of the QE"}


# revocation


def test_a_revoked_pck_certificate_is_rejected() -> None:
    failed = failures(INTEL.but(revoked_by_ca=(76, 77)))
    assert failed == {"revocation of the PCK certificate": "revoked: serial 4d"}


def test_a_revoked_platform_ca_is_rejected() -> None:
    assert set(failures(INTEL.but(revoked_by_root=(78,)))) == {"revocation of the PCK issuer"}


def test_a_revoked_tcb_signer_is_rejected() -> None:
    assert set(failures(INTEL.but(revoked_by_root=(79,)))) == {
        "revocation of the TCB info's signing chain",
        "revocation of the QE identity's signing chain",
    }


def test_a_revocation_list_of_another_issuer_is_rejected() -> None:
    collateral = INTEL.collateral()
    failed = rejected(evidence(INTEL, pck_crl=collateral.root_ca_crl), POLICY, NOW)
    assert set(failed) == {"PCK revocation list", "revocation of the PCK certificate"}


def test_an_expired_revocation_list_is_rejected() -> None:
    assert set(failures(INTEL.but(crl_until=NOW - DAY))) == {
        "validity of the root revocation list",
        "validity of the PCK revocation list",
    }


def test_a_revocation_list_below_the_policys_number_is_rejected() -> None:
    failed = failures(INTEL, minimum_crl_number=2)
    assert set(failed.values()) == {"1"}


def test_a_revocation_list_that_does_not_parse_is_rejected() -> None:
    failed = rejected(evidence(INTEL, root_ca_crl=b"\x30\x00"), POLICY, NOW)
    assert "revocation of the PCK issuer" in failed
