"""Floors in time for an image's policy: from today's lists, or refused where they cannot be met."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from sevfork.attest.defaults import HARDWARE_FLOORS
from sevfork.attest.guest_policy import GuestPolicy, guest_policy_toml
from sevfork.attest.policy import SnpPolicy, TdxPolicy
from sevfork.attest.snp.report import Product
from sevfork.attest.x509 import Certificate
from sevfork.errors import UsageError
from sevfork.technology import Technology
from sevfork.verifier import floors as subject
from sevfork.verifier.certificate_files import CertificateFile
from sevfork.verifier.floors import floors_for
from tests.support import fake_amd
from tests.support.fake_amd import EXPIRED, NOW, Part, authority, der, failed, revocation_list
from tests.support.fake_intel import FakeIntel
from tests.support.genuine import sample
from tests.support.tdx_samples import rejected, tdx_policy

SNP, TDX, SIMULATED = Technology.SEV_SNP, Technology.TDX, Technology.SIMULATED
INTEL = FakeIntel()


def files(*contents: bytes) -> Iterator[CertificateFile]:
    return (CertificateFile("file", content, named=True) for content in contents)


@pytest.fixture
def fake_makers(monkeypatch: pytest.MonkeyPatch) -> None:
    """AMD's and Intel's published roots are those of the fakes."""
    names = ("Milan", "Genoa", "Turin")
    arks = [Certificate.decode(der(authority(f"ARK-{name}", None, "ARK"))) for name in names]
    pins = {Product(name): ark.fingerprint for name, ark in zip(names, arks, strict=True)}
    monkeypatch.setattr(subject, "amd_authorities", lambda: tuple(arks))
    monkeypatch.setattr(subject, "AMD_ROOTS", pins)
    monkeypatch.setattr(subject, "INTEL_ROOT_SHA256", INTEL.root_sha256)


def snp_section(text: str) -> SnpPolicy:
    snp = GuestPolicy.decode(text.encode()).attest.snp
    assert snp is not None
    return snp


def tdx_section(text: str) -> TdxPolicy:
    tdx = GuestPolicy.decode(text.encode()).attest.tdx
    assert tdx is not None
    return tdx


# What the policy says, and that it is checked


def test_images_for_hardware_have_floors_without_being_asked() -> None:
    built = datetime(2026, 11, 1, tzinfo=UTC)
    snp = snp_section(guest_policy_toml(SNP, "owner", (), built))
    assert snp.platform.required == ("alias-check-complete",)
    tdx = tdx_section(guest_policy_toml(TDX, "owner", (), built))
    assert (tdx.minimum_tcb_evaluation_number, tdx.minimum_crl_number) == (18, 1)


def test_lists_given_to_the_builder_are_the_floor_of_their_product(fake_makers: None) -> None:
    lists = files(revocation_list("Milan", number=7), revocation_list("Genoa", number=10))
    floors = floors_for(SNP, lists, NOW)
    snp = snp_section(guest_policy_toml(SNP, "owner", (), NOW, floors))
    assert snp.crl == "required"
    assert snp.minimum_crl_number == {"Milan": 7, "Genoa": 10}


@pytest.mark.parametrize(("product", "good"), [("Milan", True), ("Genoa", False), ("Turin", True)])
def test_each_product_has_its_own_floor(product: str, good: bool) -> None:
    part = Part(product=product, crl=revocation_list(product, number=7))
    verdict = part.judge(crl="required", minimum_crl_number={"Milan": 7, "Genoa": 8})
    assert failed(verdict) == ([] if good else ["revocation list number"])


def test_a_platform_that_did_not_look_for_aliases_is_rejected() -> None:
    policy = snp_section(guest_policy_toml(SNP, "owner", (), NOW))
    assert failed(Part().judge(platform=policy.platform)) == ["platform, required"]
    checked = Part(patches={0x40: b"\x20"})
    assert failed(checked.judge(platform=policy.platform)) == []


def test_old_collateral_is_below_the_floor() -> None:
    old = INTEL.but(tcb={"tcbEvaluationDataNumber": 17})
    least = HARDWARE_FLOORS.tcb_evaluation_number
    policy = tdx_policy(INTEL.root_sha256, minimum_tcb_evaluation_number=least)
    assert set(rejected(old.evidence(), policy, NOW + timedelta(hours=12))) == {
        "TCB evaluation number of the TCB info"
    }


# What the builder decides


def test_whether_a_list_is_needed_has_to_be_decided() -> None:
    with pytest.raises(UsageError, match="without AMD's revocation list") as caught:
        floors_for(SNP, files(), NOW)
    assert "--crl optional" in (caught.value.hint or "")


@pytest.mark.parametrize("crl", ["required", "optional"])
def test_it_can_be_decided_without_lists(crl: Any) -> None:
    floors = floors_for(SNP, files(), NOW, crl=crl)
    assert floors == replace(HARDWARE_FLOORS, crl=crl)


def test_the_alias_check_can_be_given_up_in_words() -> None:
    floors = floors_for(SNP, files(), NOW, crl="optional", alias_check=False)
    snp = snp_section(guest_policy_toml(SNP, "owner", (), NOW, floors))
    assert snp.platform.required == ()


def test_the_newest_minimum_tcb_can_be_asked_for() -> None:
    newest = floors_for(SNP, files(), NOW, crl="optional", tcb="newest")
    usual = floors_for(SNP, files(), NOW, crl="optional")
    floors = (newest, usual)
    snp = [snp_section(guest_policy_toml(SNP, "owner", (), NOW, each)) for each in floors]
    assert [each.minimum_tcb["Milan"].snp for each in snp] == [0x1B, 0x18]


@pytest.mark.parametrize("technology", [TDX, Technology.SIMULATED])
def test_a_minimum_tcb_is_for_snp_alone(technology: Technology) -> None:
    with pytest.raises(UsageError, match="is not for"):
        floors_for(technology, files(), NOW, tcb="newest")


def test_collateral_given_to_the_builder_is_the_floor(fake_makers: None) -> None:
    newer = INTEL.but(tcb={"tcbEvaluationDataNumber": 21}, qe={"tcbEvaluationDataNumber": 20})
    floors = floors_for(TDX, files(newer.collateral().encode()), NOW)
    tdx = tdx_section(guest_policy_toml(TDX, "owner", (), NOW, floors))
    assert tdx.minimum_tcb_evaluation_number == 20


# Refused where a floor cannot be met


@pytest.mark.parametrize(
    ("crl", "why"),
    [
        pytest.param({"valid": EXPIRED}, "no guest could meet the list of Milan", id="expired"),
        pytest.param({"key": "ASK"}, "not signed by a root of AMD", id="forged"),
    ],
)
def test_a_list_that_no_guest_could_meet_is_refused(
    fake_makers: None, crl: dict[str, Any], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        floors_for(SNP, files(revocation_list(**crl)), NOW)


def test_a_floor_under_a_list_that_may_be_left_out_is_refused(fake_makers: None) -> None:
    with pytest.raises(UsageError, match="may be left out"):
        floors_for(SNP, files(revocation_list()), NOW, crl="optional")


def test_collateral_of_intel_is_no_floor_for_amd(fake_makers: None) -> None:
    with pytest.raises(UsageError, match="not signed by a root of AMD"):
        floors_for(SNP, files(INTEL.collateral().encode()), NOW)


def test_lists_of_amd_are_no_floor_for_intel(fake_makers: None) -> None:
    with pytest.raises(UsageError, match="no TCB info"):
        floors_for(TDX, files(revocation_list()), NOW)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"tcb": {"tcbEvaluationDataNumber": 17}}, "no guest could meet the floor of 18"),
        ({"tcb": {"nextUpdate": "2026-02-22T10:00:00Z"}}, "no guest could meet the TCB info"),
    ],
)
def test_old_collateral_is_refused(fake_makers: None, change: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        floors_for(TDX, files(INTEL.but(**change).collateral().encode()), NOW)


def test_collateral_under_another_root_is_refused() -> None:
    with pytest.raises(UsageError, match="not signed under Intel's root"):
        floors_for(TDX, files(INTEL.collateral().encode()), NOW)


def test_genuine_collateral_of_2025_is_too_old_by_now() -> None:
    genuine = sample("dcap-qvl/tdx_quote_collateral.json")
    with pytest.raises(UsageError, match="no guest could meet"):
        floors_for(TDX, files(genuine), datetime(2026, 11, 1, tzinfo=UTC))


@pytest.mark.parametrize("asked", [{"crl": "optional"}, {"crl": "required"}, {"alias_check": True}])
@pytest.mark.parametrize("technology", [SIMULATED, TDX])
def test_what_a_technology_does_not_have_is_refused(
    technology: Technology, asked: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="is not for"):
        floors_for(technology, files(), NOW, **asked)


def test_the_simulated_processor_has_no_floors() -> None:
    assert floors_for(SIMULATED, files(), NOW) is None
    with pytest.raises(UsageError, match="is not for"):
        floors_for(SIMULATED, files(revocation_list()), NOW)
    assert fake_amd.policy().snp is not None
