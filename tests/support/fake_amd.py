"""A fake AMD: it makes chips whose chains and reports are signed as genuine ones are.

A test changes one field of a good part and has everything signed again, so that what is rejected is
that field and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec.structs import replace

from sevfork.attest.defaults import policy_toml
from sevfork.attest.evidence import Evidence
from sevfork.attest.policy import Policy
from sevfork.attest.snp.certificates import (
    OID_CSP_ID,
    OID_HWID,
    CertificateTable,
)
from sevfork.attest.snp.report import Product, Tcb
from sevfork.attest.verdict import Verdict
from sevfork.attest.verify import Expected, judge
from sevfork.attest.x509 import PSS_SHA384, Certificate
from sevfork.simulated.processor import (
    build_report,
    endorsement_extensions,
    issue_authority,
    issue_endorsement,
    sign_report,
)
from sevfork.technology import Technology
from tests.support.simulators import rsa_keys

NOW = datetime(2026, 3, 1, tzinfo=UTC)
VALID = (datetime(2025, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
EXPIRED = (datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
REPORT_DATA = bytes(range(64))
CPUIDS = {"Milan": (0x19, 1, 1), "Genoa": (0x19, 0x11, 1), "Turin": (0x1A, 2, 1)}
ANY_KEY: dict[str, Any] = {"signing_keys": ("vcek", "vlek")}
TCBS = {
    "Milan": Tcb(4, 0, 24, 219),
    "Genoa": Tcb(9, 0, 23, 84),
    "Turin": Tcb(1, 1, 4, 80, 3),
}


def rsa_key(name: Literal["ARK", "ASK"]) -> rsa.RSAPrivateKey:
    return rsa_keys()[name == "ASK"]


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


@cache
def authority(name: str, issuer: str | None, issuer_key: Literal["ARK", "ASK"]) -> x509.Certificate:
    """An ARK or ASK; one RSA key serves all ASKs and one all ARKs, which takes less time."""
    key = rsa_key("ARK" if issuer is None else "ASK").public_key()
    issuer_name = None if issuer is None else authority(issuer, None, "ARK").subject
    return issue_authority(name, key, issuer_name, rsa_key(issuer_key))


@cache
def _leaf(
    name: str,
    issuer: x509.Name,
    extensions: tuple[tuple[str, bytes], ...],
    valid: tuple[datetime, datetime],
) -> x509.Certificate:
    key = ec_key("leaf").public_key()
    return issue_endorsement(name, key, issuer, rsa_key("ASK"), dict(extensions), valid)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


@dataclass(frozen=True)
class Part:
    """One chip and the report it makes; ``patches`` are bytes by offset, set before signing."""

    product: str = "Milan"
    version: int = 3
    vlek: bool = False
    tcb: Tcb | None = None
    certified_tcb: Tcb | None = None
    chip_id: bytes | None = None
    hardware_id: bytes | None = None
    root_product: str | None = None
    leaf_name: str | None = None
    leaf_product: str | None = None
    leaf_valid: tuple[datetime, datetime] = VALID
    csp_id: bytes = b"\x16\x07CN=fake"
    crl: bytes = b""
    policy: int = 0x30000
    patches: Mapping[int, bytes] = field(default_factory=dict)
    technology: Technology = Technology.SEV_SNP

    @property
    def own_tcb(self) -> Tcb:
        return self.tcb or TCBS[self.product]

    @property
    def own_chip_id(self) -> bytes:
        """As long as the product's hardware id, zeros behind it up to 64 bytes."""
        size = 8 if self.product == "Turin" else 64
        chip_id = b"\xc1" * size if self.chip_id is None else self.chip_id
        return chip_id.ljust(64, b"\0")

    def report(self) -> bytes:
        body = build_report(
            version=self.version,
            policy=self.policy,
            report_data=REPORT_DATA,
            measurement=b"\x11" * 48,
            host_data=b"\x22" * 32,
            report_id=b"\x33" * 32,
            chip_id=self.own_chip_id,
            tcb=self.own_tcb.encode(),
            cpuid=bytes(3) if self.version == 2 else bytes(CPUIDS[self.product]),
        )
        changed = bytearray(body)
        if self.vlek:
            changed[0x48] = 1 << 2
        for offset, value in self.patches.items():
            changed[offset : offset + len(value)] = value
        return sign_report(bytes(changed), ec_key("leaf"))

    def certificates(self) -> CertificateTable:
        product = self.root_product or self.product
        ark = authority(f"ARK-{product}", None, "ARK")
        name = f"SEV-VLEK-{product}" if self.vlek else f"SEV-{product}"
        ask = authority(name, f"ARK-{product}", "ARK")
        leaf = der(self.leaf(ask.subject))
        endorsement = {"vlek": leaf} if self.vlek else {"vcek": leaf}
        return CertificateTable(**endorsement, ask=der(ask), ark=der(ark), crl=self.crl)

    def leaf(self, issuer: x509.Name) -> x509.Certificate:
        product_name = self.leaf_product or (
            f"{self.product}-B0" if not self.vlek else self.product
        )
        size = 8 if self.product == "Turin" else 64
        hardware_id = self.hardware_id or self.own_chip_id[:size]
        tcb = self.certified_tcb or self.own_tcb
        extensions = endorsement_extensions(product_name, tcb, hardware_id)
        if self.vlek:
            del extensions[OID_HWID]
            extensions[OID_CSP_ID] = self.csp_id
        name = self.leaf_name or ("SEV-VLEK" if self.vlek else "SEV-VCEK")
        return _leaf(name, issuer, tuple(extensions.items()), self.leaf_valid)

    def evidence(self) -> Evidence:
        return Evidence(self.technology, self.report(), self.certificates().encode())

    def judge(
        self, expected: Expected | None = None, at: datetime = NOW, **changes: Any
    ) -> Verdict:
        """The verdict under the policy that good parts pass, its SNP section changed."""
        wanted = expected or Expected(REPORT_DATA)
        return judge(self.evidence(), snp_policy(**changes), wanted, at)


@cache
def revocation_list(
    product: str = "Milan",
    *,
    number: int = 1,
    revoked: tuple[int, ...] = (),
    valid: tuple[datetime, datetime] = VALID,
    key: Literal["ARK", "ASK"] = "ARK",
) -> bytes:
    """A CRL in DER, as the product's ARK signs it."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority(f"ARK-{product}", None, "ARK").subject)
        .last_update(valid[0])
        .next_update(valid[1])
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(VALID[0])
        builder = builder.add_revoked_certificate(entry.build())
    crl = builder.sign(rsa_key(key), SHA384(), rsa_padding=PSS_SHA384)
    return crl.public_bytes(Encoding.DER)


def roots() -> list[str]:
    """The fingerprints of the fake ARKs of all products."""
    arks = (authority(f"ARK-{product}", None, "ARK") for product in TCBS)
    return [Certificate.decode(der(ark)).fingerprint for ark in arks]


@cache
def policy(*technologies: Technology) -> Policy:
    minimum = {Product(name): tcb for name, tcb in TCBS.items()}
    text = policy_toml(technologies or [Technology.SEV_SNP], roots(), VALID[0], minimum_tcb=minimum)
    return Policy.decode(text.encode())


def snp_policy(**changes: Any) -> Policy:
    """The policy that good parts pass, with fields of its SNP section replaced."""
    base = policy()
    assert base.snp is not None
    return msgspec.structs.replace(base, snp=msgspec.structs.replace(base.snp, **changes))


def failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.failures]


def with_leaf(part: Part, leaf: bytes) -> Evidence:
    """The part's evidence with another leaf certificate."""
    table = replace(part.certificates(), vcek=leaf)
    return Evidence(part.technology, part.report(), table.encode())


def judged(evidence: Evidence) -> list[str]:
    """The checks that fail under the policy that good parts pass."""
    return failed(judge(evidence, policy(), Expected(REPORT_DATA), NOW))
