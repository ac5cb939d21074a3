"""TDX evidence against policies, by an Intel of our own that signs whatever a test wants signed.

Each negative test is named after the attack or the mistake, and says which checks fail: those, and
no others.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from sevfork.attest.bits import Bits
from sevfork.attest.evidence import Evidence
from sevfork.attest.guest_policy import GuestPolicy, guest_policy_toml
from sevfork.attest.tdx.collateral import Collateral
from sevfork.attest.verdict import EvidenceRejected
from sevfork.attest.verify import Expected, judge, verify
from sevfork.errors import AttestationFailed
from sevfork.handshake.launch import LaunchConfig, Role, launch_config_hash
from sevfork.handshake.own_launch import OwnLaunch
from sevfork.technology import Technology
from tests.support.fake_intel import (
    NOW,
    PCK,
    PLATFORM_CA,
    ROOT,
    Certificate,
    FakeIntel,
)
from tests.support.tdx_examined import DAY, INTEL, INTEL_5, POLICY, failures
from tests.support.tdx_samples import BUILT, accepted, rejected, tdx_policy

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
    foreign = INTEL.but(root=dataclasses.replace(INTEL.root, common_name="ARK-Simulated"))
    failed = rejected(foreign.evidence(), tdx_policy(foreign.root_sha256), NOW)
    assert "a certificate is 'ARK-Simulated'" in failed["PCK chain"]


def test_a_tcb_signer_that_issues_a_pck_certificate_is_rejected() -> None:
    chain = INTEL.but(platform_ca=Certificate(PLATFORM_CA, ROOT, ca=False, serial=78))
    assert "may not issue" in failures(chain)["PCK chain"]


def test_a_pck_certificate_that_may_issue_others_is_rejected() -> None:
    issuing = INTEL.but(pck=dataclasses.replace(INTEL.pck, ca=True))
    assert "the leaf is a certificate authority" in failures(issuing)["PCK chain"]


def test_a_pck_key_on_another_curve_is_rejected() -> None:
    """It signed the QE's report, and the platform CA signed it: only the curve is not Intel's."""
    other = Certificate(f"{PCK} on K1", PLATFORM_CA, ca=False, serial=77, common_name=PCK)
    assert failures(INTEL.but(pck=other)) == {
        "QE report": "PCK chain: the leaf's key is not on secp256r1"
    }


def test_a_chain_with_other_names_is_rejected() -> None:
    chain = INTEL.but(pck=dataclasses.replace(INTEL.pck, common_name="Intel SGX TCB Signing"))
    assert failures(chain) == {
        "PCK chain": "PCK chain: a certificate is 'Intel SGX TCB Signing', "
        "not 'Intel SGX PCK Certificate'"
    }


def test_a_link_that_the_issuer_did_not_sign_is_rejected() -> None:
    root_again = INTEL.but(platform_ca=dataclasses.replace(INTEL.platform_ca, issuer=PLATFORM_CA))
    assert "PCK chain" in failures(root_again)


def test_an_expired_pck_certificate_is_rejected() -> None:
    expired = INTEL.but(pck=dataclasses.replace(INTEL.pck, end=NOW - DAY))
    assert set(failures(expired)) == {"validity of the PCK chain"}


def test_a_pck_certificate_of_the_future_is_rejected() -> None:
    early = INTEL.but(pck=dataclasses.replace(INTEL.pck, start=NOW + DAY))
    assert set(failures(early)) == {"validity of the PCK chain"}


def test_a_time_before_the_policys_floor_is_rejected() -> None:
    assert "time" in failures(INTEL, at=datetime(2022, 1, 1, tzinfo=UTC))


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
