"""TDX evidence against policies, by an Intel of our own that signs whatever a test wants signed.

Each negative test is named after the attack or the mistake, and says which checks fail: those, and
no others.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sevfork.attest.bits import Bits
from sevfork.attest.defaults import policy_toml
from sevfork.attest.evidence import Evidence
from sevfork.attest.guest_policy import GuestPolicy, guest_policy_toml
from sevfork.attest.policy import Policy
from sevfork.attest.tdx.collateral import Collateral, SignedJson
from sevfork.attest.verdict import EvidenceRejected
from sevfork.attest.verify import Expected, judge, verify
from sevfork.errors import AttestationFailed, UsageError
from sevfork.handshake.launch import LaunchConfig, Role, launch_config_hash
from sevfork.handshake.own import OwnLaunch
from sevfork.technology import Technology
from tests.support.fake_intel import (
    NOW,
    PCK,
    PLATFORM_CA,
    ROOT,
    TCB_SIGNER,
    Certificate,
    FakeIntel,
    level,
    platform_level,
)
from tests.support.tdx_samples import BUILT, accepted, rejected, tdx_policy

INTEL = FakeIntel()
INTEL_5 = FakeIntel(version=5, body_type=3)
POLICY = tdx_policy(INTEL.root_sha256)
DAY = timedelta(days=1)


def evidence(intel: FakeIntel, **collateral: Any) -> Evidence:
    """Evidence of an Intel, with fields of its collateral replaced."""
    changed = replace(intel.collateral(), **collateral)
    return Evidence(Technology.TDX, intel.quote(), changed.encode())


def failures(intel: FakeIntel, at: datetime = NOW, **policy: Any) -> dict[str, str]:
    return rejected(intel.evidence(), tdx_policy(INTEL.root_sha256, **policy), at)


# what is right


@pytest.mark.parametrize("intel", [INTEL, INTEL_5], ids=["v4", "v5"])
def test_good_evidence_is_verified(intel: FakeIntel) -> None:
    report = accepted(intel.evidence(), POLICY, NOW)
    assert report.technology is Technology.TDX
    assert report.report_id is None
    assert report.chip_id == b"\x11" * 16
    assert report.verdict.passed


def test_the_launch_identity_is_the_one_of_the_design() -> None:
    identity = accepted(INTEL.evidence(), POLICY, NOW).launch_identity
    assert [name for name, _ in identity.parts] == [
        "mrtd", "rtmr0", "rtmr1", "rtmr2", "td_attributes", "xfam", "mrseam", "mrsignerseam",
        "mrowner", "mrownerconfig",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["mrtd", "rtmr0", "rtmr1", "rtmr2", "mrseam", "mrowner",
                                  "mrownerconfig"])  # fmt: skip
def test_another_launch_has_another_identity(name: str) -> None:
    mine = accepted(INTEL.evidence(), POLICY, NOW).launch_identity
    other = INTEL.but(td={name: b"\x01" * 48}).evidence()
    expected = Expected(bytes(64), launch_identity=mine)
    with pytest.raises(EvidenceRejected, match=f"another {name}"):
        verify(other, POLICY, expected, NOW)


def test_rtmr3_and_mrconfigid_are_no_part_of_the_identity() -> None:
    mine = accepted(INTEL.evidence(), POLICY, NOW).launch_identity
    other = INTEL.but(td={"rtmr3": b"\x01" * 48, "mrconfigid": b"\x02" * 48}).evidence()
    assert verify(other, POLICY, Expected(bytes(64), launch_identity=mine), NOW).verdict.passed


def test_the_launch_configuration_is_mrconfigid() -> None:
    launched = INTEL.but(td={"mrconfigid": b"\x07" * 48}).evidence()
    expected = Expected(bytes(64), launch_config_hash=b"\x07" * 48)
    assert verify(launched, POLICY, expected, NOW).launch_config_hash == b"\x07" * 48
    with pytest.raises(EvidenceRejected, match="launch configuration"):
        verify(INTEL.evidence(), POLICY, expected, NOW)


def test_another_report_data_is_rejected() -> None:
    assert set(rejected(INTEL.evidence(), POLICY, NOW, b"\x01" * 64)) == {"report data"}


def test_another_platform_than_the_expected_one_is_rejected() -> None:
    expected = Expected(bytes(64), chip_id=b"\x12" * 16)
    with pytest.raises(EvidenceRejected, match="same chip"):
        verify(INTEL.evidence(), POLICY, expected, NOW)


def test_a_report_id_that_a_quote_does_not_have_is_no_other_one() -> None:
    expected = Expected(bytes(64), other_than_report_id=b"\x33" * 32)
    verdict = judge(INTEL.evidence(), POLICY, expected, NOW)
    assert [(check.name, check.got) for check in verdict.failures] == [("report id", "none")]


def test_trailing_bytes_are_accepted_and_named() -> None:
    report = accepted(INTEL.but(trailing=bytes(100)).evidence(), POLICY, NOW)
    assert any("100 bytes after the quote" in what for what in report.verdict.not_checked)


# signatures


def test_a_quote_signed_by_another_key_is_rejected() -> None:
    quote = bytearray(INTEL.quote())
    quote[636:700] = INTEL.but(td={"mrtd": bytes(48)}).quote()[636:700]
    failed = rejected(Evidence(Technology.TDX, bytes(quote), INTEL.collateral().encode()),
                      POLICY, NOW)  # fmt: skip
    assert set(failed) == {"signature"}


def test_an_attestation_key_that_the_qe_report_does_not_name_is_rejected() -> None:
    assert failures(INTEL.but(bound_key="another")) == {
        "attestation key": "tdx quote: the QE report does not name this attestation key"
    }


def test_an_attestation_key_that_is_no_point_is_rejected() -> None:
    quote = bytearray(INTEL.quote())
    quote[700:764] = b"\x01" * 64
    failed = rejected(Evidence(Technology.TDX, bytes(quote), INTEL.collateral().encode()),
                      POLICY, NOW)  # fmt: skip
    assert set(failed) == {"attestation key", "signature"}


def test_a_qe_report_that_the_pck_key_did_not_sign_is_rejected() -> None:
    quote = bytearray(INTEL.quote())
    quote[636 + 134 + 384] ^= 1
    failed = rejected(Evidence(Technology.TDX, bytes(quote), INTEL.collateral().encode()),
                      POLICY, NOW)  # fmt: skip
    assert set(failed) == {"QE report"}


def test_a_wrong_qe_mrsigner_is_rejected() -> None:
    failed = failures(INTEL.but(qe_mrsigner=b"\x0b" * 32))
    assert set(failed) == {"quoting enclave"}
    assert "mrsigner" in failed["quoting enclave"]


def test_the_sgx_quoting_enclave_does_not_sign_tds() -> None:
    assert "product id is 1" in failures(INTEL.but(qe_prod_id=1))["quoting enclave"]


def test_a_debug_quoting_enclave_is_rejected() -> None:
    debug = bytes.fromhex("1700000000000000e700000000000000")
    failed = failures(INTEL.but(qe_attributes=debug))
    assert set(failed) == {"quoting enclave", "TCB of the QE"}


# the certificate chain


def test_a_root_that_the_policy_does_not_pin_is_rejected() -> None:
    failed = rejected(INTEL.evidence(), tdx_policy(), NOW)
    assert failed == {"root of the PCK chain": INTEL.root_sha256}


def test_a_root_of_another_maker_is_no_intel_root_though_the_policy_pins_it() -> None:
    """One policy may pin AMD's, Intel's and a simulator's roots: each is good for its own kind."""
    foreign = INTEL.but(root=replace(INTEL.root, common_name="ARK-Simulated"))
    failed = rejected(foreign.evidence(), tdx_policy(foreign.root_sha256), NOW)
    assert "a certificate is 'ARK-Simulated'" in failed["PCK chain"]


def test_a_tcb_signer_that_issues_a_pck_certificate_is_rejected() -> None:
    chain = INTEL.but(platform_ca=Certificate(PLATFORM_CA, ROOT, ca=False, serial=78))
    assert "may not issue" in failures(chain)["PCK chain"]


def test_a_pck_certificate_that_may_issue_others_is_rejected() -> None:
    issuing = INTEL.but(pck=replace(INTEL.pck, ca=True))
    assert "the leaf is a certificate authority" in failures(issuing)["PCK chain"]


def test_a_pck_key_on_another_curve_is_rejected() -> None:
    """It signed the QE's report, and the platform CA signed it: only the curve is not Intel's."""
    other = Certificate(f"{PCK} on K1", PLATFORM_CA, ca=False, serial=77, common_name=PCK)
    assert failures(INTEL.but(pck=other)) == {
        "QE report": "PCK chain: the leaf's key is not on secp256r1"
    }


def test_a_chain_with_other_names_is_rejected() -> None:
    chain = INTEL.but(pck=replace(INTEL.pck, common_name="Intel SGX TCB Signing"))
    assert failures(chain) == {
        "PCK chain": "PCK chain: a certificate is 'Intel SGX TCB Signing', "
        "not 'Intel SGX PCK Certificate'"
    }


def test_a_link_that_the_issuer_did_not_sign_is_rejected() -> None:
    root_again = INTEL.but(platform_ca=replace(INTEL.platform_ca, issuer=PLATFORM_CA))
    assert "PCK chain" in failures(root_again)


def test_an_expired_pck_certificate_is_rejected() -> None:
    expired = INTEL.but(pck=replace(INTEL.pck, end=NOW - DAY))
    assert set(failures(expired)) == {"validity of the PCK chain"}


def test_a_pck_certificate_of_the_future_is_rejected() -> None:
    early = INTEL.but(pck=replace(INTEL.pck, start=NOW + DAY))
    assert set(failures(early)) == {"validity of the PCK chain"}


def test_a_time_before_the_policys_floor_is_rejected() -> None:
    assert "time" in failures(INTEL, at=datetime(2022, 1, 1, tzinfo=UTC))


# collateral


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


# TCB levels


def test_a_tcb_status_that_the_policy_does_not_accept_is_rejected() -> None:
    old = INTEL.but(pce_svn=5)
    assert failures(old) == {"TCB status": "OutOfDate"}
    lenient = tdx_policy(INTEL.root_sha256, tcb_statuses=("UpToDate", "OutOfDate"))
    assert accepted(old.evidence(), lenient, NOW).verdict.passed


def test_a_policy_with_a_status_that_intel_does_not_have_is_no_policy() -> None:
    text = policy_toml([Technology.TDX], [INTEL.root_sha256], BUILT)
    with pytest.raises(UsageError, match="no status 'UpTodate'"):
        Policy.decode(text.replace("UpToDate", "UpTodate").encode())


def test_an_empty_list_of_statuses_accepts_nothing() -> None:
    assert set(failures(INTEL, tcb_statuses=())) == {"TCB status"}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"td": {"tee_tcb_svn": bytes([3, 1, 3]) + bytes(13)}}, "OutOfDate"),
        ({"qe_svn": 3}, "OutOfDate"),
        ({"tcb": {"tcbLevels": [platform_level("ConfigurationNeeded")]}, "qe_svn": 3},
         "OutOfDateConfigurationNeeded"),
        ({"tcb": {"tcbLevels": [platform_level("Revoked")]}}, "Revoked"),
    ],
    ids=["old-module", "old-qe", "configuration-and-old-qe", "revoked"],
)  # fmt: skip
def test_the_worst_of_platform_module_and_qe_counts(change: dict[str, Any], status: str) -> None:
    assert failures(INTEL.but(**change))["TCB status"] == status


@pytest.mark.parametrize(
    "change",
    [
        {"svns": (2,) * 7 + (1,) + (2,) * 8},
        {"pce_svn": 4},
        {"td": {"tee_tcb_svn": bytes([6, 1, 1]) + bytes(13)}},
    ],
    ids=["one-component", "pce", "tdx-component"],
)
def test_a_platform_below_every_level_is_rejected(change: dict[str, Any]) -> None:
    assert set(failures(INTEL.but(**change))) == {"TCB of the platform at launch"}


def test_a_module_of_version_1_is_not_compared_with_the_components_of_version_0() -> None:
    levels = [platform_level("UpToDate", tdx=(9, 0, 2))]
    assert accepted(INTEL.but(tcb={"tcbLevels": levels}).evidence(), POLICY, NOW).verdict.passed


def test_a_module_of_version_0_is_compared_in_all_components() -> None:
    td = {"tee_tcb_svn": bytes([4, 0, 3]) + bytes(13)}
    assert set(failures(INTEL.but(td=td))) == {"TCB of the platform at launch"}
    td = {"tee_tcb_svn": bytes([5, 0, 3]) + bytes(13)}
    assert accepted(INTEL.but(td=td).evidence(), POLICY, NOW).verdict.passed


def test_a_module_that_intel_does_not_list_is_rejected() -> None:
    td = {"tee_tcb_svn": bytes([6, 2, 3]) + bytes(13)}
    assert failures(INTEL.but(td=td)) == {
        "TCB of the TDX module at launch": "TCB info has no TDX module 'TDX_02'"
    }


def test_a_module_that_intel_did_not_sign_is_rejected() -> None:
    failed = failures(INTEL.but(td={"mrsignerseam": b"\x01" * 48}))
    assert set(failed) == {"TCB of the TDX module at launch", "MRSIGNERSEAM"}


def test_seam_attributes_are_checked_by_the_policy_and_by_intels_mask() -> None:
    failed = failures(INTEL.but(td={"seam_attributes": b"\x01" + bytes(7)}))
    assert set(failed) == {"TCB of the TDX module at launch", "SEAM attributes"}


def _svn(*svns: int) -> bytes:
    return bytes(svns) + bytes(16 - len(svns))


def test_a_td_that_was_launched_under_an_old_module_has_to_be_launched_again() -> None:
    updated = INTEL_5.but(td={"tee_tcb_svn": _svn(3, 1, 3), "tee_tcb_svn2": _svn(6, 1, 3)})
    assert failures(updated) == {"TCB status": "TDRelaunchAdvised"}


def test_a_platform_that_is_below_every_level_now_is_rejected() -> None:
    fallen = INTEL_5.but(td={"tee_tcb_svn": _svn(6, 1, 3), "tee_tcb_svn2": _svn(6, 1, 1)})
    assert set(failures(fallen)) == {"TCB of the platform now"}


def test_advisories_are_listed_and_may_be_refused() -> None:
    levels = [platform_level("UpToDate", "INTEL-SA-01036", "INTEL-SA-00837")]
    intel = INTEL.but(tcb={"tcbLevels": levels})
    facts = dict(accepted(intel.evidence(), POLICY, NOW).verdict.facts)
    assert facts["advisories"] == "INTEL-SA-00837, INTEL-SA-01036"
    assert failures(intel, advisories=("INTEL-SA-00837",)) == {"advisory": "INTEL-SA-01036"}


def test_a_level_says_how_old_it_is() -> None:
    facts = dict(accepted(INTEL.evidence(), POLICY, NOW).verdict.facts)
    assert facts["TCB date"] == "2025-05-14"


def test_no_levels_at_all_is_rejected() -> None:
    assert set(failures(INTEL.but(tcb={"tcbLevels": []}))) == {"TCB of the platform at launch"}
    assert set(failures(INTEL.but(qe={"tcbLevels": [level("UpToDate", isvsvn=9)]}))) == {
        "TCB of the QE"
    }


# the TD


def test_a_debug_td_is_rejected() -> None:
    debug = INTEL.but(td={"td_attributes": b"\x01" + bytes(7)})
    assert failures(debug) == {"TD attributes": "debug"}


def test_a_migratable_td_is_rejected() -> None:
    migratable = INTEL.but(td={"td_attributes": (1 << 29).to_bytes(8, "little")})
    assert failures(migratable) == {"TD attributes": "migratable"}


def test_an_attribute_that_nobody_knows_is_rejected() -> None:
    unknown = INTEL.but(td={"td_attributes": (1 << 50).to_bytes(8, "little")})
    assert failures(unknown) == {"TD attributes": "bit 50"}


@pytest.mark.parametrize(
    ("xfam", "check"),
    [(0x602E7 | 1 << 63, "XFAM bits"), (0x602E6, "XFAM bits, required")],
    ids=["unknown", "no-x87"],
)
def test_xfam_bits_that_no_td_has_are_rejected(xfam: int, check: str) -> None:
    assert set(failures(INTEL.but(td={"xfam": xfam.to_bytes(8, "little")}))) == {check}


def test_the_service_td_and_the_features_are_said() -> None:
    facts = dict(judge(INTEL_5.evidence(), POLICY, None, NOW).facts)
    assert facts["MRSERVICETD"] == "00" * 48
    assert facts["XFAM"].startswith("x87, sse, avx")
    assert dict(judge(INTEL.evidence(), POLICY, None, NOW).facts)["MRSERVICETD"].startswith("not")


def test_a_missing_required_attribute_is_rejected() -> None:
    bits = Bits(allowed=("sept-ve-disable",), required=("sept-ve-disable",))
    assert set(failures(INTEL.but(td={"td_attributes": bytes(8)}), attributes=bits)) == {
        "TD attributes, required"
    }


RULED = {
    "mrseam": ("MRSEAM", 48), "mrsigner_seam": ("MRSIGNERSEAM", 48), "mrtd": ("MRTD", 48),
    "seam_attributes": ("SEAM attributes", 8), "xfam": ("XFAM", 8), "rtmr0": ("RTMR0", 48),
    "rtmr1": ("RTMR1", 48), "rtmr2": ("RTMR2", 48), "rtmr3": ("RTMR3", 48),
    "mrconfigid": ("MRCONFIGID", 48), "mrowner": ("MROWNER", 48),
    "mrownerconfig": ("MROWNERCONFIG", 48), "mrservicetd": ("MRSERVICETD", 48),
    "platforms": ("accepted platforms", 16), "fmspcs": ("FMSPC", 6),
}  # fmt: skip


@pytest.mark.parametrize("field", RULED)
def test_each_measured_value_must_be_on_the_policys_list(field: str) -> None:
    name, size = RULED[field]
    for values in (("ab" * size,), ()):
        changes: dict[str, Any] = {field: values}
        assert set(failures(INTEL_5, **changes)) == {name}


def test_a_service_td_that_the_quote_cannot_tell_is_a_failure() -> None:
    assert set(failures(INTEL, mrservicetd=("00" * 48,))) == {"MRSERVICETD"}
    report = accepted(INTEL.evidence(), POLICY, NOW)
    assert any(what.startswith("MRSERVICETD") for what in report.verdict.not_checked)


def test_a_denied_platform_is_rejected() -> None:
    assert set(failures(INTEL, denied_platforms=("11" * 16,))) == {"denied platforms"}


def test_a_tee_tcb_below_the_policys_floor_is_rejected() -> None:
    assert set(failures(INTEL, minimum_tee_tcb_svn="060104" + "00" * 13)) == {"TEE TCB SVN"}


def test_an_old_kind_of_quote_and_an_old_qe_are_rejected() -> None:
    assert set(failures(INTEL, minimum_quote_version=5)) == {"quote version"}
    assert set(failures(INTEL, minimum_qe_svn=5)) == {"QE SVN"}


def test_a_policy_for_snp_alone_does_not_accept_tdx() -> None:
    verdict = judge(replace(INTEL.evidence(), technology=Technology.SEV_SNP), POLICY, None, NOW)
    assert [check.name for check in verdict.failures] == ["technology"]


def test_a_quote_presented_as_simulated_evidence_is_rejected() -> None:
    disguised = replace(INTEL.evidence(), technology=Technology.SIMULATED)
    with pytest.raises(AttestationFailed):
        verify(disguised, POLICY, Expected(bytes(64)), NOW)


def test_every_truncation_of_evidence_is_rejected() -> None:
    whole = INTEL.evidence()
    for size in range(0, len(whole.report), 7):
        cut = replace(whole, report=whole.report[:size])
        assert rejected(cut, POLICY, NOW, bytes(64))


def test_collateral_survives_its_own_encoding() -> None:
    collateral = INTEL.collateral()
    assert Collateral.decode(collateral.encode()) == collateral


# among guests of one image


PEERS = GuestPolicy.decode(
    guest_policy_toml(Technology.TDX, "owner", [INTEL.root_sha256], BUILT).encode()
)


def test_a_guests_own_policy_accepts_a_child_of_its_own_launch() -> None:
    root, child = LaunchConfig(Role.ROOT).encode(), LaunchConfig(Role.CHILD, None, b"\x05" * 48)
    mine = accepted(_launched(root), PEERS.attest, NOW)
    own = OwnLaunch.of(mine, root, PEERS.digest, same_chip=True)
    expected = own.expect(bytes(64), child.encode())
    assert verify(_launched(child.encode()), PEERS.attest, expected, NOW).verdict.passed
    with pytest.raises(EvidenceRejected, match="launch configuration"):
        verify(_launched(root), PEERS.attest, expected, NOW)


def _launched(config: bytes, **td: bytes) -> Evidence:
    signed = {"mrconfigid": launch_config_hash(Technology.TDX, config)}
    return INTEL.but(td={**signed, **td}).evidence()


def test_a_guests_own_policy_wants_rtmr3_zero() -> None:
    extended = _launched(LaunchConfig(Role.ROOT).encode(), rtmr3=b"\x01" * 48)
    assert set(rejected(extended, PEERS.attest, NOW)) == {"RTMR3"}


def test_a_guests_own_policy_wants_no_exceptions_for_missing_pages() -> None:
    lax = _launched(LaunchConfig(Role.ROOT).encode(), td_attributes=bytes(8))
    assert set(rejected(lax, PEERS.attest, NOW)) == {"TD attributes, required"}


def test_a_guests_own_policy_wants_collateral() -> None:
    bare = replace(_launched(LaunchConfig(Role.ROOT).encode()), certificates=b"")
    assert set(rejected(bare, PEERS.attest, NOW)) == {"collateral"}
