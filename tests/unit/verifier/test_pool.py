"""Certificates from files: the right ones of many are found, and what is there stays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sevfork.attest.evidence import Evidence
from sevfork.attest.verify import Expected, judge
from sevfork.errors import UsageError
from sevfork.simulated.processor import endorsement_extensions, issue_endorsement
from sevfork.technology import Technology
from sevfork.verifier.certificate_files import CertificateFile
from sevfork.verifier.pool import Pool
from tests.support import fake_amd
from tests.support.fake_amd import (
    EXPIRED,
    NOW,
    REPORT_DATA,
    Part,
    authority,
    der,
    failed,
    revocation_list,
)


@given(st.lists(st.binary(max_size=200) | st.just(b"{}"), max_size=4))
def test_no_folder_ends_in_a_traceback(contents: list[bytes]) -> None:
    with contextlib.suppress(UsageError):
        pool(contents).complete(Evidence(Technology.SEV_SNP, Part().report(), b""))


def pool(contents: Iterable[bytes]) -> Pool:
    files = (CertificateFile(f"{number}", content) for number, content in enumerate(contents))
    return Pool.read(files, NOW)


def pem(name: str, issuer: str | None = None) -> bytes:
    return authority(name, issuer, "ARK").public_bytes(Encoding.PEM)


def test_right_ones_of_many_certificates_are_found() -> None:
    """Other chips, other TCBs, other products, a VLEK, revocation lists old and new."""
    part = Part()
    contents = [
        Part(chip_id=b"\xc2" * 64).certificates().vcek,
        Part(tcb=replace(part.own_tcb, microcode=1)).certificates().vcek,
        Part(product="Genoa").certificates().vcek,
        Part(vlek=True).certificates().vlek,
        b"not a certificate",
        pem("SEV-Genoa", "ARK-Genoa") + pem("ARK-Genoa"),
        pem("SEV-VLEK-Milan", "ARK-Milan"),
        part.certificates().vcek,
        b"text before\n" + pem("SEV-Milan", "ARK-Milan") + b"text between\n" + pem("ARK-Milan"),
        revocation_list("Genoa"),
        revocation_list(number=2),
        revocation_list(number=1, valid=EXPIRED),
    ]
    bare = Evidence(Technology.SEV_SNP, part.report(), b"")
    for ordered in (contents, contents[::-1]):
        complete = pool(ordered).complete(bare)
        policy = fake_amd.snp_policy(crl="required", minimum_crl_number=2)
        assert failed(judge(complete, policy, Expected(REPORT_DATA), NOW)) == []


def test_what_came_with_the_evidence_stays() -> None:
    evidence = Part().evidence()
    other = Part(chip_id=b"\xc2" * 64).certificates()
    assert pool([other.vcek, other.ask]).complete(evidence) == evidence


def test_a_stale_leaf_in_the_evidence_gives_way_to_the_one_that_signed() -> None:
    """A host may hand out the VCEK of the firmware before the last update, or no longer fitting."""
    part, key = Part(), fake_amd.ec_key("older firmware")
    ask = authority("SEV-Milan", "ARK-Milan", "ARK")
    extensions = endorsement_extensions("Milan-B0", part.own_tcb, part.own_chip_id)
    arguments = (key.public_key(), ask.subject, fake_amd.rsa_key("ASK"), extensions)
    stale = der(issue_endorsement("SEV-VCEK", *arguments, fake_amd.VALID))
    table = replace(part.certificates(), vcek=stale)
    evidence = Evidence(Technology.SEV_SNP, part.report(), table.encode())
    complete = pool([part.certificates().vcek]).complete(evidence)
    assert failed(judge(complete, fake_amd.policy(), Expected(REPORT_DATA), NOW)) == []
    assert pool([]).complete(evidence) == evidence


def test_an_intermediate_in_the_evidence_gives_way_to_the_one_that_signed() -> None:
    """AMD's VCEK and VLEK have different ones, and hosts mix them up."""
    part = Part()
    asvk = der(authority("SEV-VLEK-Milan", "ARK-Milan", "ARK"))
    table = replace(part.certificates(), ask=asvk)
    evidence = Evidence(Technology.SEV_SNP, part.report(), table.encode())
    complete = pool([part.certificates().ask]).complete(evidence)
    assert failed(judge(complete, fake_amd.policy(), Expected(REPORT_DATA), NOW)) == []


def test_wrong_leaf_is_taken_if_it_is_all_there_is_and_rejected() -> None:
    part, other = Part(), Part(chip_id=b"\xc2" * 64)
    table = other.certificates()
    bare = Evidence(Technology.SEV_SNP, part.report(), b"")
    complete = pool([table.vcek, table.ask, table.ark]).complete(bare)
    verdict = judge(complete, fake_amd.policy(), Expected(REPORT_DATA), NOW)
    assert failed(verdict) == ["hardware id of the certificate"]


def test_malformed_table_is_left_for_the_verdict() -> None:
    evidence = Evidence(Technology.SEV_SNP, Part().report(), b"\1" * 30)
    assert pool([]).complete(evidence) == evidence
    assert failed(judge(evidence, fake_amd.policy(), Expected(REPORT_DATA), NOW)) == [
        "certificates"
    ]
