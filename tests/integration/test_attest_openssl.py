"""``openssl`` says the same as our verifier of chains, signatures and revocation lists."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sevfork.attest.evidence import Evidence
from sevfork.attest.snp.certificates import CertificateTable
from sevfork.attest.snp.report import SnpReport
from sevfork.attest.verify import judge
from sevfork.attest.x509 import Certificate, RevocationList, Scheme
from sevfork.errors import AttestationFailed
from sevfork.process import run
from tests.support import fake_amd
from tests.support import snp_samples as samples
from tests.support.genuine import find

pytestmark = [
    pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed"),
    pytest.mark.filterwarnings("ignore:Parsed a serial number"),
]
_TIMEOUT_S = 20


@dataclass(frozen=True)
class Openssl:
    """The evidence in files, and what ``openssl`` thinks of them."""

    folder: Path
    evidence: Evidence

    def __post_init__(self) -> None:
        report, table = SnpReport.decode(self.evidence.report), self.table
        leaf = Certificate.decode(table.vcek or table.vlek)
        signature = encode_dss_signature(report.signature_r, report.signature_s)
        key = leaf.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        files = {"signed": report.signed_bytes, "signature": signature, "key.pem": key}
        for name, certificate in (("ark", table.ark), ("ask", table.ask), ("leaf", leaf.der)):
            parsed = Certificate.decode(certificate).parsed
            files[f"{name}.pem"] = parsed.public_bytes(Encoding.PEM)
        for name, content in files.items():
            (self.folder / name).write_bytes(content)

    @property
    def table(self) -> CertificateTable:
        return CertificateTable.decode(self.evidence.certificates)

    def accepts_chain(self) -> bool:
        seconds = str(int(fake_amd.NOW.timestamp()))
        chain = ("-CAfile", "ark.pem", "-untrusted", "ask.pem", "leaf.pem")
        return self._run("verify", "-attime", seconds, *chain)

    def accepts_signature(self) -> bool:
        return self._run(
            "dgst", "-sha384", "-verify", "key.pem", "-signature", "signature", "signed"
        )

    def accepts_list(self, crl: bytes) -> bool:
        """``openssl crl`` exits with 0 for a bad signature too, and says it on stderr."""
        (self.folder / "crl").write_bytes(crl)
        argv = ["openssl", "crl", "-inform", "DER", "-in", "crl", "-CAfile", "ark.pem", "-noout"]
        done = run(argv, timeout_s=_TIMEOUT_S, check=False, cwd=self.folder)
        return done.returncode == 0 and "verify OK" in done.stderr

    def _run(self, *arguments: str) -> bool:
        done = run(["openssl", *arguments], timeout_s=_TIMEOUT_S, check=False, cwd=self.folder)
        return done.returncode == 0


def ours(evidence: Evidence, names: tuple[str, ...]) -> bool:
    """Whether all of our checks of these names passed."""
    verdict = judge(evidence, samples.AMD_POLICY, None, fake_amd.NOW)
    made = {check.name: check.passed for check in verdict.checks}
    return all(made[name] for name in names)


CHAIN = ("signature on the ARK", "signature on the ASK", "signature on the leaf")
PARTS = [
    fake_amd.Part(product=product, vlek=vlek)
    for product in ("Milan", "Genoa", "Turin")
    for vlek in (False, True)
]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.product}-{part.vlek}")
def test_openssl_accepts_what_the_fake_amd_signs(part: fake_amd.Part, tmp_path: Path) -> None:
    openssl = Openssl(tmp_path, part.evidence())
    assert openssl.accepts_chain()
    assert openssl.accepts_signature()
    assert ours(openssl.evidence, (*CHAIN, "signature"))


def genuine(name: str) -> Evidence:
    evidence: Evidence = getattr(samples, name)(find("."))
    return evidence


@pytest.mark.parametrize("name", ["milan_baseline", "milan_debug"])
def test_openssl_and_we_accept_the_signatures_of_genuine_samples(name: str, tmp_path: Path) -> None:
    openssl = Openssl(tmp_path, genuine(name))
    assert openssl.accepts_chain()
    assert openssl.accepts_signature()
    assert ours(openssl.evidence, (*CHAIN, "signature"))


def test_openssl_and_we_accept_the_signature_of_the_genuine_vlek_report(tmp_path: Path) -> None:
    openssl = Openssl(tmp_path, genuine("milan_vlek"))
    assert openssl.accepts_signature()
    assert ours(openssl.evidence, (*CHAIN, "signature"))


@pytest.mark.parametrize("offset", [0x04, 0x50, 0x1FF, 0x2A0, 0x2E8])
def test_openssl_and_we_reject_a_changed_byte(offset: int, tmp_path: Path) -> None:
    good = fake_amd.Part(version=5).evidence()
    report = bytearray(good.report)
    report[offset] ^= 1
    evidence = Evidence(good.technology, bytes(report), good.certificates)
    assert not Openssl(tmp_path, evidence).accepts_signature()
    assert not ours(evidence, ("signature",))


def test_openssl_and_we_reject_a_leaf_of_another_issuer(tmp_path: Path) -> None:
    other = fake_amd.Part(product="Genoa", root_product="Milan").certificates()
    table = fake_amd.Part(product="Genoa").certificates()
    mixed = CertificateTable(vcek=other.vcek, ask=table.ask, ark=table.ark)
    part = fake_amd.Part(product="Genoa")
    evidence = Evidence(part.technology, part.report(), mixed.encode())
    assert not Openssl(tmp_path, evidence).accepts_chain()
    assert not ours(evidence, CHAIN)


@pytest.mark.parametrize(("product", "key", "good"), [
    ("Milan", "ARK", True), ("Milan", "ASK", False), ("Genoa", "ARK", False),
])  # fmt: skip
def test_openssl_and_we_agree_on_revocation_lists(
    product: str, key: Literal["ARK", "ASK"], good: bool, tmp_path: Path
) -> None:
    openssl = Openssl(tmp_path, fake_amd.Part().evidence())
    crl = fake_amd.revocation_list(product, key=key)
    ark = Certificate.decode(openssl.table.ark)
    assert openssl.accepts_list(crl) is good
    decoded = RevocationList.decode(crl)
    with nullcontext() if good else pytest.raises(AttestationFailed):
        decoded.verify(ark, Scheme.AMD)
