"""Leaf, intermediate, root and revocation list of a report."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from msgspec.structs import replace

from sevfork.attest.evidence import Evidence
from sevfork.attest.snp.report import Tcb
from sevfork.attest.verify import Expected, judge
from sevfork.attest.x509 import PSS_SHA384, Certificate
from sevfork.simulated.processor import endorsement_extensions, issue_endorsement, sign_report
from sevfork.technology import Technology
from tests.support import fake_amd
from tests.support.fake_amd import (
    ANY_KEY,
    EXPIRED,
    NOW,
    REPORT_DATA,
    TCBS,
    VALID,
    Part,
    authority,
    der,
    failed,
    judged,
    revocation_list,
    rsa_key,
    with_leaf,
)

PRODUCTS = tuple(TCBS)


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
    part = Part(crl=revocation_list(**{"number": 7, **crl}))
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
