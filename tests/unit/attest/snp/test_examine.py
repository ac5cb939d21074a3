"""Good parts of every kind pass; each trap is a test that changes one thing and signs again."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
import pytest
from msgspec import structs

from sevfork.attest.bits import Bits
from sevfork.attest.evidence import Evidence
from sevfork.attest.verdict import Claims, EvidenceRejected, LaunchIdentity, VerifiedReport
from sevfork.attest.verify import Expected, judge, verify
from sevfork.errors import UsageError
from sevfork.technology import Technology
from tests.support import fake_amd
from tests.support.fake_amd import (
    ANY_KEY,
    NOW,
    REPORT_DATA,
    TCBS,
    Part,
    failed,
)

PRODUCTS = tuple(TCBS)


# Good parts


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("product", PRODUCTS)
def test_good_report_passes(product: str, version: int) -> None:
    verdict = Part(product=product, version=version).judge()
    assert failed(verdict) == []
    assert verdict.passed


@pytest.mark.parametrize("product", PRODUCTS)
def test_good_report_signed_with_a_vlek_passes_where_allowed(product: str) -> None:
    assert failed(Part(product=product, vlek=True).judge(**ANY_KEY)) == []
    assert failed(Part(product=product, vlek=True).judge()) == ["signing key"]


def test_hardware_id_in_der_passes_as_well_as_raw() -> None:
    part = Part()
    assert failed(replace(part, hardware_id=b"\x04\x40" + part.own_chip_id).judge()) == []


def test_verify_hands_back_what_was_checked() -> None:
    part = Part()
    identity = LaunchIdentity(
        Technology.SEV_SNP,
        (
            ("measurement", b"\x11" * 48),
            ("policy", (0x30000).to_bytes(8, "little")),
            ("id key", bytes(48)),
            ("author key", bytes(48)),
        ),
    )
    expected = Expected(REPORT_DATA, b"\x22" * 32, identity, b"\x44" * 32, part.own_chip_id)
    report = verify(part.evidence(), fake_amd.policy(), expected, NOW)
    assert (report.report_data, report.launch_config_hash) == (REPORT_DATA, b"\x22" * 32)
    assert (report.report_id, report.chip_id) == (b"\x33" * 32, part.own_chip_id)
    assert report.launch_identity == identity
    assert report.verdict.passed


def test_verdict_says_what_was_not_checked() -> None:
    verdict = judge(Part().evidence(), fake_amd.policy(), None, NOW)
    text = "\n".join(verdict.not_checked)
    for what in ("time not trusted", "report data", "measurement", "revocation", "launch identity"):
        assert what in text


def test_only_verify_makes_a_verified_report() -> None:
    with pytest.raises(TypeError, match="only verify"):
        VerifiedReport()
    claims = Claims(
        Technology.SEV_SNP, b"", b"", LaunchIdentity(Technology.SEV_SNP, ()), None, None
    )
    assert not isinstance(claims, VerifiedReport)


def test_error_carries_the_verdict_and_names_the_check() -> None:
    with pytest.raises(EvidenceRejected, match="VMPL: wanted one of: 0, got 1") as caught:
        verify(
            Part(patches={0x30: b"\1"}).evidence(), fake_amd.policy(), Expected(REPORT_DATA), NOW
        )
    assert failed(caught.value.verdict) == ["VMPL"]
    assert caught.value.exit_code == 20


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(UsageError, match="time zone"):
        judge(Part().evidence(), fake_amd.policy(), None, datetime(2026, 1, 1))  # noqa: DTZ001


# The report's fields


@pytest.mark.parametrize(
    ("offset", "value", "check"),
    [
        pytest.param(0x30, b"\x01", "VMPL", id="vmpl_1"),
        pytest.param(0x0A, b"\x0b", "guest policy", id="debug"),
        pytest.param(0x0A, b"\x07", "guest policy", id="migration_agent"),
        pytest.param(0x0A, b"\x23", "guest policy", id="cxl"),
        pytest.param(0x48, b"\x02", "chip key", id="masked_chip_key"),
        pytest.param(0x160, b"\x00", "migration agent's report id", id="bound_to_migration_agent"),
        pytest.param(0x3F, b"\xdc", "running TCB", id="provisional_microcode"),
        pytest.param(0x1E8, b"\x01", "running TCB", id="provisional_firmware_build"),
        pytest.param(0x1F7, b"\xda", "TCB at launch", id="launched_on_old_microcode"),
        pytest.param(0x187, b"\xff", "reported TCB", id="tcb_self_reported"),
        pytest.param(0x187, b"\x00", "reported TCB", id="tcb_reported_too_low"),
        pytest.param(0x189, b"\x11", "product of the report", id="genoa_report_by_a_milan_chip"),
        pytest.param(0x188, b"\x17", "product of the report", id="unknown_processor"),
        pytest.param(0x188, b"\0\0", "product of the report", id="simulated_report_by_milan"),
        pytest.param(0x1A0, b"\x00", "hardware id of the certificate", id="another_chip_id"),
        pytest.param(0x50, b"\xff", "report data", id="another_report_data"),
    ],
)
def test_one_wrong_field_fails_one_check(offset: int, value: bytes, check: str) -> None:
    assert failed(Part(patches={offset: value}).judge()) == [check]


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"minimum_report_version": 4}, "report version"),
        ({"minimum_guest_svn": 1}, "guest SVN"),
        ({"minimum_abi": "1.0"}, "firmware ABI"),
        ({"minimum_firmware": "1.55.1"}, "committed firmware"),
        ({"vmpl": ()}, "VMPL"),
        ({"signing_keys": ()}, "signing key"),
        ({"measurements": ()}, "measurement"),
        ({"measurements": ("12" * 48,)}, "measurement"),
        ({"host_data": ("12" * 32,)}, "host data"),
        ({"family_ids": ("12" * 16,)}, "family id"),
        ({"image_ids": ("12" * 16,)}, "image id"),
        ({"id_keys": ("12" * 48,)}, "id key"),
        ({"author_keys": ("12" * 48,)}, "author key"),
        ({"chips": ("12" * 64,)}, "accepted chips"),
        ({"denied_chips": ("c1" * 64,)}, "denied chips"),
        ({"crl": "required"}, "revocation list"),
        ({"guest_policy": Bits(allowed=(), required=())}, "guest policy"),
        ({"guest_policy": Bits(allowed="any", required=("cxl",))}, "guest policy, required"),
        ({"platform": Bits(allowed="any", required=("ecc",))}, "platform, required"),
    ],
)
def test_policy_that_wants_more_rejects_with_its_own_check(
    changes: dict[str, Any], check: str
) -> None:
    assert failed(Part().judge(**changes)) == [check]


def test_empty_policy_lists_accept_nothing() -> None:
    base = fake_amd.policy()
    nobody = msgspec.structs.replace(base, roots=())
    assert failed(judge(Part().evidence(), nobody, Expected(REPORT_DATA), NOW)) == ["root"]
    nothing = msgspec.structs.replace(base, technologies=(), snp=None)
    assert failed(judge(Part().evidence(), nothing, Expected(REPORT_DATA), NOW)) == ["technology"]
    assert failed(Part().judge(minimum_tcb={})) == ["TCB of the certificate", "TCB at launch"]


def test_product_that_the_policy_gave_up_is_rejected() -> None:
    base = fake_amd.policy()
    assert base.snp is not None
    kept = {name: tcb for name, tcb in base.snp.minimum_tcb.items() if name != "Milan"}
    assert failed(Part().judge(minimum_tcb=kept))[0] == "TCB of the certificate"


def test_unnamed_platform_bit_is_rejected_unless_any_is_allowed() -> None:
    part = Part(patches={0x40: b"\x41"})
    assert failed(part.judge()) == []
    bits = Bits(allowed=("smt",), required=())
    assert failed(part.judge(platform=bits)) == ["platform"]


def test_iommu_write_safe_has_a_name() -> None:
    """AMD-SB-3016; seen on a genuine Turin."""
    part = Part(patches={0x40: b"\x40"})
    assert failed(part.judge(platform=Bits(allowed=("smt",), required=()))) == ["platform"]
    named = Bits(allowed=("iommu-write-safe",), required=("iommu-write-safe",))
    assert failed(part.judge(platform=named)) == []


def test_mitigations_must_be_in_both_vectors() -> None:
    both = Part(version=5, patches={0x1F8: b"\x03", 0x200: b"\x03"})
    assert failed(both.judge(required_mitigations=3)) == []
    later = Part(version=5, patches={0x1F8: b"\x01", 0x200: b"\x03"})
    assert failed(later.judge(required_mitigations=3)) == ["mitigations at launch"]


def test_required_mitigations_reject_a_report_that_has_no_vectors() -> None:
    verdict = Part(version=4).judge(required_mitigations=1)
    assert failed(verdict) == ["mitigations at launch", "mitigations now"]


# What the verifier expects


def test_report_id_equal_to_ones_own_is_rejected() -> None:
    expected = Expected(REPORT_DATA, other_than_report_id=b"\x33" * 32)
    assert failed(Part().judge(expected)) == ["report id"]


def test_another_launch_configuration_is_rejected() -> None:
    expected = Expected(REPORT_DATA, launch_config_hash=b"\x23" * 32)
    assert failed(Part().judge(expected)) == ["launch configuration"]


@pytest.mark.parametrize(
    ("offset", "value", "part"),
    [
        (0x90, b"\xff", "measurement"),
        (0x08, b"\x01", "policy"),
        (0xE0, b"\1", "id key"),
        (0x110, b"\1", "author key"),
    ],
)
def test_another_launch_identity_is_rejected(offset: int, value: bytes, part: str) -> None:
    own = verify(Part().evidence(), fake_amd.policy(), Expected(REPORT_DATA), NOW)
    expected = Expected(REPORT_DATA, launch_identity=own.launch_identity)
    verdict = Part(patches={offset: value}).judge(expected)
    assert [(check.name, check.got) for check in verdict.failures] == [
        ("launch identity", f"another {part}")
    ]


# Technologies


def test_genuine_chain_is_no_simulated_evidence() -> None:
    evidence = structs.replace(Part().evidence(), technology=Technology.SIMULATED)
    both = fake_amd.policy(Technology.SIMULATED, Technology.SEV_SNP)
    assert failed(judge(evidence, both, Expected(REPORT_DATA), NOW)) == ["product"]


def test_technology_that_the_policy_does_not_accept_is_rejected_unread() -> None:
    evidence = structs.replace(Part().evidence(), technology=Technology.SIMULATED)
    verdict = judge(evidence, fake_amd.policy(), Expected(REPORT_DATA), NOW)
    assert [check.name for check in verdict.checks] == ["technology"]


def test_report_that_does_not_parse_is_a_verdict_and_not_a_traceback() -> None:
    evidence = Evidence(Technology.SEV_SNP, b"", b"")
    verdict = judge(evidence, fake_amd.policy(), Expected(REPORT_DATA), NOW)
    assert failed(verdict) == ["evidence"]
