"""Good parts of every kind pass; each trap is a test that changes one thing and signs again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from sevfork.attest.bits import Bits
from sevfork.attest.evidence import Evidence
from sevfork.attest.policy import MinimumTcb
from sevfork.attest.snp.report import Tcb
from sevfork.attest.verdict import Claims, EvidenceRejected, LaunchIdentity, VerifiedReport
from sevfork.attest.verify import Expected, judge, verify
from sevfork.attest.x509 import PSS_SHA384, Certificate
from sevfork.errors import UsageError
from sevfork.simulated.processor import endorsement_extensions, issue_endorsement, sign_report
from sevfork.technology import Technology
from tests.support import fake_amd
from tests.support.fake_amd import (
    EXPIRED,
    NOW,
    REPORT_DATA,
    TCBS,
    VALID,
    Part,
    authority,
    der,
    failed,
    revocation_list,
    rsa_key,
)

PRODUCTS = tuple(TCBS)
ANY_KEY: dict[str, Any] = {"signing_keys": ("vcek", "vlek")}


def with_leaf(part: Part, leaf: bytes) -> Evidence:
    table = replace(part.certificates(), vcek=leaf)
    return Evidence(part.technology, part.report(), table.encode())


def judged(evidence: Evidence) -> list[str]:
    return failed(judge(evidence, fake_amd.policy(), Expected(REPORT_DATA), NOW))


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


# TCB


@pytest.mark.parametrize("component", ["bootloader", "snp", "microcode"])
def test_tcb_is_compared_by_component_and_not_as_one_number(component: str) -> None:
    low = replace(Tcb(255, 255, 255, 255), **{component: 0})
    verdict = Part(tcb=low).judge()
    assert failed(verdict) == ["TCB of the certificate", "TCB at launch"]


def test_turin_fmc_below_the_minimum_is_rejected() -> None:
    low = replace(TCBS["Turin"], fmc=2)
    verdict = Part(product="Turin", tcb=low).judge()
    assert failed(verdict) == ["TCB of the certificate", "TCB at launch"]


def test_tcb_of_the_certificate_counts_and_not_the_reports() -> None:
    """The report claims what the policy wants; the key that signed is an older firmware's."""
    old = Tcb(4, 0, 8, 115)
    verdict = Part(certified_tcb=old).judge()
    assert failed(verdict) == ["TCB of the certificate", "reported TCB"]


def test_provisional_firmware_passes_only_where_allowed() -> None:
    newer = Part(patches={0x3F: b"\xdc"})
    assert failed(newer.judge(allow_provisional_firmware=True)) == []
    older = Part(patches={0x3F: b"\x01"})
    assert failed(older.judge(allow_provisional_firmware=True)) == ["running TCB"]


def test_reserved_tcb_bytes_are_rejected() -> None:
    verdict = Part(patches={0x183: b"\1"}).judge()
    assert failed(verdict) == ["TCBs of the report"]


BY_STEPPING = MinimumTcb(
    bootloader=0, tee=0, snp=23, microcode=84, microcode_by_stepping={"a0/2": 25}
)


@pytest.mark.parametrize(
    ("cpuid", "microcode", "good"),
    [
        pytest.param((0x19, 0xA0, 2), 25, True, id="bergamo_has_numbers_of_its_own"),
        pytest.param((0x19, 0xA0, 2), 24, False, id="an_old_bergamo"),
        pytest.param((0x19, 0x11, 1), 83, False, id="an_old_genoa"),
        pytest.param((0x19, 0xA0, 1), 83, False, id="a_stepping_that_the_policy_does_not_name"),
    ],
)
def test_minimum_microcode_is_by_model_and_stepping(
    cpuid: tuple[int, int, int], microcode: int, good: bool
) -> None:
    tcb = replace(TCBS["Genoa"], microcode=microcode)
    part = Part(product="Genoa", tcb=tcb, patches={0x188: bytes(cpuid)})
    expected = [] if good else ["TCB of the certificate", "TCB at launch"]
    assert failed(part.judge(minimum_tcb={"Genoa": BY_STEPPING})) == expected


def test_a_version_2_report_has_to_meet_the_minimum_for_everything_else() -> None:
    tcb = replace(TCBS["Genoa"], microcode=25)
    part = Part(product="Genoa", tcb=tcb, version=2)
    assert "TCB of the certificate" in failed(part.judge(minimum_tcb={"Genoa": BY_STEPPING}))


# The chip


def test_zero_chip_id_is_rejected() -> None:
    part = Part(chip_id=bytes(64), hardware_id=b"\xc1" * 64)
    assert failed(part.judge()) == ["chip id"]


def test_zero_chip_id_cannot_be_cleared_by_a_deny_list() -> None:
    part = Part(chip_id=bytes(64), hardware_id=b"\xc1" * 64)
    verdict = part.judge(allow_masked_chip_id=True, denied_chips=("12" * 64,))
    assert failed(verdict) == ["denied chips"]


@pytest.mark.parametrize("vlek", [True, False])
def test_a_zero_chip_id_in_version_2_leaves_the_product_to_the_certificates(vlek: bool) -> None:
    part = Part(version=2, chip_id=bytes(64), hardware_id=b"\xc1" * 64, vlek=vlek)
    verdict = part.judge(**ANY_KEY, allow_masked_chip_id=True)
    assert failed(verdict) == []
    assert any(what.startswith("product of the report") for what in verdict.not_checked)
    turin = replace(part, root_product="Turin")
    assert "product of the certificate" in failed(turin.judge(allow_masked_chip_id=True))


def test_version_2_report_with_a_short_chip_id_is_not_from_milan() -> None:
    part = Part(version=2, chip_id=b"\xc1" * 8, hardware_id=b"\xc1" * 8 + bytes(56))
    assert failed(part.judge()) == ["product of the report"]


def test_turin_chip_id_with_more_than_eight_bytes_is_rejected() -> None:
    part = Part(product="Turin", chip_id=b"\xc1" * 9, hardware_id=b"\xc1" * 8)
    assert failed(part.judge()) == ["hardware id of the certificate"]


def test_milan_certificate_with_a_short_hardware_id_is_rejected() -> None:
    part = Part(chip_id=b"\xc1" * 8, hardware_id=b"\xc1" * 8)
    assert failed(part.judge()) == ["hardware id of the certificate"]


def test_another_chip_than_the_own_is_rejected() -> None:
    expected = Expected(REPORT_DATA, chip_id=b"\xc2" * 64)
    assert failed(Part().judge(expected)) == ["same chip"]


def test_same_chip_cannot_be_shown_by_a_zero_chip_id() -> None:
    part = Part(chip_id=bytes(64), hardware_id=b"\xc1" * 64)
    verdict = part.judge(Expected(REPORT_DATA, chip_id=bytes(64)), allow_masked_chip_id=True)
    assert failed(verdict) == ["same chip"]


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


# Certificates


def test_leaf_named_vcek_is_rejected_because_amd_calls_it_sev_vcek() -> None:
    assert failed(Part(leaf_name="VCEK").judge()) == ["name of the leaf"]


def test_expired_leaf_is_rejected() -> None:
    assert failed(Part(leaf_valid=EXPIRED).judge()) == ["validity of the leaf"]


def test_leaf_that_is_not_valid_yet_is_rejected() -> None:
    later = (datetime(2027, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
    assert failed(Part(leaf_valid=later).judge()) == ["validity of the leaf"]


def test_expired_authorities_are_rejected() -> None:
    verdict = Part(leaf_valid=(VALID[0], datetime(2060, 1, 1, tzinfo=UTC))).judge(
        at=datetime(2055, 1, 1, tzinfo=UTC)
    )
    assert failed(verdict) == ["validity of the ARK", "validity of the ASK"]


def test_clock_before_the_policys_floor_is_rejected() -> None:
    verdict = Part(leaf_valid=(EXPIRED[0], VALID[1])).judge(at=datetime(2024, 6, 1, tzinfo=UTC))
    assert failed(verdict) == ["time"]


def test_wrong_products_ark_is_rejected() -> None:
    """A Milan chip under Genoa's chain, signed all the way: only the names disagree."""
    verdict = Part(root_product="Genoa", tcb=TCBS["Genoa"]).judge()
    assert failed(verdict) == ["product of the certificate", "product of the report"]


def test_leaf_for_another_product_is_rejected() -> None:
    assert failed(Part(leaf_product="Genoa").judge()) == ["product of the certificate"]


def test_root_that_is_not_pinned_is_rejected() -> None:
    table = Part().certificates()
    own = msgspec.structs.replace(
        fake_amd.policy(), roots=(Certificate.decode(table.ark).fingerprint,)
    )
    assert judge(Part().evidence(), own, Expected(REPORT_DATA), NOW).passed
    other = msgspec.structs.replace(own, roots=(Certificate.decode(table.ask).fingerprint,))
    assert failed(judge(Part().evidence(), other, Expected(REPORT_DATA), NOW)) == ["root"]


def test_vlek_presented_as_vcek_is_rejected() -> None:
    """The report says VCEK; the host puts a VLEK with its ASVK where VCEK and ASK belong."""
    vlek = Part(vlek=True).certificates()
    table = replace(vlek, vcek=vlek.vlek, vlek=b"")
    evidence = Evidence(Technology.SEV_SNP, Part().report(), table.encode())
    assert {"name of the ASK", "name of the leaf"} <= set(judged(evidence))


def test_vcek_presented_as_vlek_is_rejected() -> None:
    vcek = Part().certificates()
    table = replace(vcek, vlek=vcek.vcek, vcek=b"")
    evidence = Evidence(Technology.SEV_SNP, Part(vlek=True).report(), table.encode())
    names = failed(judge(evidence, fake_amd.snp_policy(**ANY_KEY), Expected(REPORT_DATA), NOW))
    assert {"name of the ASK", "name of the leaf", "cloud provider"} <= set(names)


def test_vlek_of_a_provider_that_the_policy_does_not_list_is_rejected() -> None:
    part = Part(vlek=True)
    assert failed(part.judge(**ANY_KEY, csp_ids=("CN=fake",))) == []
    assert failed(part.judge(**ANY_KEY, csp_ids=("CN=other",))) == ["accepted cloud providers"]


def test_doctored_vcek_is_rejected() -> None:
    """One byte of its certified TCB raised, the rest of the certificate as AMD signed it."""
    part = Part(tcb=Tcb(4, 0, 24, 100))
    leaf = part.certificates().vcek
    microcode = bytes.fromhex(
        "9c7801030804030201"
    )  # the end of its OID, and an INTEGER of one byte
    place = leaf.index(microcode) + len(microcode)
    assert leaf[place] == 100
    doctored = leaf[:place] + bytes([127]) + leaf[place + 1 :]
    assert "signature on the leaf" in judged(with_leaf(part, doctored))


def test_leaf_signed_by_another_key_is_rejected() -> None:
    part = Part()
    ask = authority("SEV-Milan", "ARK-Milan", "ARK")
    extensions = endorsement_extensions("Milan-B0", part.own_tcb, part.own_chip_id)
    key = fake_amd.ec_key("leaf").public_key()
    forged = issue_endorsement("SEV-VCEK", key, ask.subject, rsa_key("ARK"), extensions, VALID)
    assert judged(with_leaf(part, der(forged))) == ["signature on the leaf"]


def test_intermediate_signed_by_another_key_is_rejected() -> None:
    forged = authority("SEV-Milan", "ARK-Milan", "ASK")
    table = replace(Part().certificates(), ask=der(forged))
    evidence = Evidence(Technology.SEV_SNP, Part().report(), table.encode())
    assert judged(evidence) == ["signature on the ASK"]


def test_root_as_its_own_intermediate_is_rejected() -> None:
    table = Part().certificates()
    evidence = Evidence(Technology.SEV_SNP, Part().report(), replace(table, ask=table.ark).encode())
    assert judged(evidence) == ["name of the ASK", "signature on the leaf"]


def test_leaf_that_is_an_authority_is_rejected() -> None:
    part = Part()
    leaf = resigned(part, lambda b: b.add_extension(x509.BasicConstraints(True, None), True))
    usage = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
    authority_leaf = resigned(
        part,
        lambda b: b.add_extension(x509.BasicConstraints(True, None), True).add_extension(
            usage, True
        ),
    )
    assert judged(with_leaf(part, der(leaf))) == []
    assert judged(with_leaf(part, der(authority_leaf))) == ["leaf"]


def resigned(
    part: Part,
    change: Callable[[x509.CertificateBuilder], x509.CertificateBuilder],
    pss: padding.PSS | padding.PKCS1v15 = PSS_SHA384,
    digest: SHA256 | SHA384 | None = None,
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | None = None,
) -> x509.Certificate:
    """The part's leaf built again by hand, with one thing that AMD never does."""
    good = part.leaf(authority("SEV-Milan", "ARK-Milan", "ARK").subject)
    builder = (
        x509.CertificateBuilder()
        .subject_name(good.subject)
        .issuer_name(good.issuer)
        .public_key(key or good.public_key())
        .serial_number(1)
        .not_valid_before(VALID[0])
        .not_valid_after(VALID[1])
    )
    for extension in good.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return change(builder).sign(rsa_key("ASK"), digest or SHA384(), rsa_padding=pss)


@pytest.mark.parametrize(
    ("pss", "digest"),
    [
        pytest.param(padding.PKCS1v15(), SHA384(), id="pkcs1"),
        pytest.param(padding.PSS(padding.MGF1(SHA256()), 32), SHA256(), id="sha256"),
        pytest.param(padding.PSS(padding.MGF1(SHA384()), 20), SHA384(), id="short_salt"),
    ],
)
def test_other_signature_schemes_than_amds_are_rejected(
    pss: padding.PSS | padding.PKCS1v15, digest: SHA256 | SHA384
) -> None:
    part = Part()
    leaf = resigned(part, lambda builder: builder, pss, digest)
    assert judged(with_leaf(part, der(leaf))) == ["signature on the leaf"]


def test_leaf_on_another_curve_is_rejected() -> None:
    """Though its key did sign the report: P-256's numbers fit where P-384's belong."""
    part = Part()
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = resigned(part, lambda builder: builder, key=key.public_key())
    report = sign_report(part.report()[:0x2A0], key)
    assert judged(replace(with_leaf(part, der(leaf)), report=report)) == ["signature"]


def test_intermediate_that_may_not_issue_is_rejected() -> None:
    """A certificate of the right name and key, signed by the ARK, without an authority's rights."""
    ark, ask = authority("ARK-Milan", None, "ARK"), authority("SEV-Milan", "ARK-Milan", "ARK")
    plain = (
        x509.CertificateBuilder()
        .subject_name(ask.subject)
        .issuer_name(ark.subject)
        .public_key(rsa_key("ASK").public_key())
        .serial_number(1)
        .not_valid_before(VALID[0])
        .not_valid_after(VALID[1])
        .sign(rsa_key("ARK"), SHA384(), rsa_padding=PSS_SHA384)
    )
    table = replace(Part().certificates(), ask=der(plain))
    evidence = Evidence(Technology.SEV_SNP, Part().report(), table.encode())
    assert judged(evidence) == ["signature on the leaf"]


def test_leaf_with_an_rsa_key_is_rejected() -> None:
    part = Part()
    leaf = resigned(part, lambda builder: builder, key=rsa_key("ASK").public_key())
    assert judged(with_leaf(part, der(leaf))) == ["leaf", "signature"]


def test_root_with_a_short_rsa_key_is_rejected() -> None:
    from sevfork.simulated.processor import issue_authority

    key = rsa.generate_private_key(65537, 2048)
    ark = issue_authority("ARK-Milan", key.public_key(), None, key)
    ask = issue_authority("SEV-Milan", rsa_key("ASK").public_key(), ark.subject, key)
    table = replace(Part().certificates(), ark=der(ark), ask=der(ask))
    evidence = Evidence(Technology.SEV_SNP, Part().report(), table.encode())
    pinned = (Certificate.decode(der(ark)).fingerprint,)
    trusting = msgspec.structs.replace(fake_amd.policy(), roots=pinned)
    names = failed(judge(evidence, trusting, Expected(REPORT_DATA), NOW))
    assert names == ["signature on the ARK", "signature on the ASK"]


def test_report_signed_by_another_key_is_rejected() -> None:
    part = Part()
    report = sign_report(part.report()[:0x2A0], fake_amd.ec_key("other"))
    evidence = Evidence(Technology.SEV_SNP, report, part.certificates().encode())
    assert judged(evidence) == ["signature"]


def test_unsigned_report_is_rejected() -> None:
    report = bytearray(Part(patches={0x48: bytes([7 << 2])}).report())
    report[0x2A0:] = bytes(len(report) - 0x2A0)
    evidence = Evidence(Technology.SEV_SNP, bytes(report), Part().certificates().encode())
    assert judged(evidence) == ["certificates", "signing key"]


@pytest.mark.parametrize("absent", ["vcek", "ask", "ark"])
def test_missing_certificate_is_a_failed_check(absent: str) -> None:
    table = replace(Part().certificates(), **{absent: b""})
    evidence = Evidence(Technology.SEV_SNP, Part().report(), table.encode())
    assert judged(evidence) == ["certificates"]


# Revocation


def test_current_revocation_list_passes() -> None:
    part = Part(crl=revocation_list(number=7, revoked=(5,)))
    assert failed(part.judge(crl="required", minimum_crl_number=7)) == []


@pytest.mark.parametrize(
    ("crl", "check"),
    [
        pytest.param({"product": "Genoa"}, "revocation list", id="of_another_product"),
        pytest.param({"key": "ASK"}, "revocation list", id="signed_by_another_key"),
        pytest.param({"number": 6}, "revocation list number", id="rolled_back"),
    ],
)
def test_bad_revocation_list_is_rejected(crl: dict[str, object], check: str) -> None:
    part = Part(crl=revocation_list(**{"number": 7, **crl}))  # type: ignore[arg-type]
    assert failed(part.judge(crl="required", minimum_crl_number=7)) == [check]
    assert failed(part.judge(crl="optional", minimum_crl_number=7)) == [check]


def test_an_expired_revocation_list_is_no_better_than_none() -> None:
    expired, none = Part(crl=revocation_list(valid=EXPIRED)), Part()
    assert failed(expired.judge(crl="required")) == ["validity of the revocation list"]
    assert failed(none.judge(crl="required")) == ["revocation list"]
    for part in (expired, none):
        verdict = part.judge(crl="optional")
        assert failed(verdict) == []
        assert [what.split(":")[0] for what in verdict.warnings] == ["revocation"]
    assert Part(crl=revocation_list()).judge(crl="optional").warnings == ()


@pytest.mark.parametrize("valid", [VALID, EXPIRED])
def test_revoked_intermediate_is_rejected(valid: tuple[datetime, datetime]) -> None:
    """Even by a list that has run out: what was revoked stays so."""
    serial = authority("SEV-Milan", "ARK-Milan", "ARK").serial_number
    part = Part(crl=revocation_list(revoked=(serial,), valid=valid))
    assert failed(part.judge()) == ["ASK"]


# Technologies


def test_genuine_chain_is_no_simulated_evidence() -> None:
    evidence = replace(Part().evidence(), technology=Technology.SIMULATED)
    both = fake_amd.policy(Technology.SIMULATED, Technology.SEV_SNP)
    assert failed(judge(evidence, both, Expected(REPORT_DATA), NOW)) == ["product"]


def test_technology_that_the_policy_does_not_accept_is_rejected_unread() -> None:
    evidence = replace(Part().evidence(), technology=Technology.SIMULATED)
    verdict = judge(evidence, fake_amd.policy(), Expected(REPORT_DATA), NOW)
    assert [check.name for check in verdict.checks] == ["technology"]


def test_report_that_does_not_parse_is_a_verdict_and_not_a_traceback() -> None:
    evidence = Evidence(Technology.SEV_SNP, b"", b"")
    verdict = judge(evidence, fake_amd.policy(), Expected(REPORT_DATA), NOW)
    assert failed(verdict) == ["evidence"]
