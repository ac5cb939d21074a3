"""Genuine evidence, put together from the samples of public projects (never copied into here)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from sevfork.attest.defaults import policy_toml
from sevfork.attest.evidence import Evidence
from sevfork.attest.policy import Policy
from sevfork.attest.snp.certificates import AMD_ROOTS, CertificateTable
from sevfork.technology import Technology

_END = b"-----END CERTIFICATE-----\n"
AMD_POLICY = Policy.decode(
    policy_toml(
        [Technology.SEV_SNP],
        list(AMD_ROOTS.values()),
        datetime(2020, 1, 1, tzinfo=UTC),
        signing_keys=("vcek", "vlek"),
    ).encode()
)


def amd_policy(**changes: object) -> Policy:
    """The policy for genuine samples, with fields of its SNP section replaced."""
    assert AMD_POLICY.snp is not None
    snp = msgspec.structs.replace(AMD_POLICY.snp, **changes)
    return msgspec.structs.replace(AMD_POLICY, snp=snp)


def chain(path: Path) -> tuple[bytes, bytes]:
    """ASK and ARK of a ``cert_chain`` file."""
    ask, ark, rest = path.read_bytes().replace(b"\r\n", b"\n").split(_END)
    assert not rest.strip()
    return ask + _END, ark + _END


def evidence(report: bytes, chain_file: Path, *, vcek: bytes = b"", vlek: bytes = b"") -> Evidence:
    ask, ark = chain(chain_file)
    table = CertificateTable(vcek=vcek, vlek=vlek, ask=ask, ark=ark)
    return Evidence(Technology.SEV_SNP, report, table.encode())


def milan_baseline(vectors: Path) -> Evidence:
    folder = vectors / "virtee-sev"
    report = bytes.fromhex((folder / "report_milan.hex").read_text())
    vcek = (folder / "vcek_milan.der").read_bytes()
    return evidence(report, folder / "cert_chain_milan", vcek=vcek)


def milan_debug(vectors: Path) -> Evidence:
    folder = vectors / "go-sev-guest"
    report = (folder / "attestation.bin").read_bytes()
    vcek = (folder / "vcek.testcer").read_bytes()
    return evidence(report, folder / "trust" / "ask_ark_milan.pem", vcek=vcek)


def milan_vlek(vectors: Path) -> Evidence:
    folder = vectors / "trustee" / "snp"
    report = (folder / "test-vlek-report.bin").read_bytes()
    vlek = (folder / "test-vlek.der").read_bytes()
    return evidence(report, vectors / "go-sev-guest/trust/ask_ark_milan_vlek.pem", vlek=vlek)
