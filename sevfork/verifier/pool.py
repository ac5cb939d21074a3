"""Certificates, revocation lists and collateral from files, to complete evidence with.

Which of them are tried decides nothing, because the chain is checked afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sevfork.attest.evidence import Evidence
from sevfork.attest.snp.certificates import CertificateTable, Endorsement
from sevfork.attest.snp.report import SigningKey, SnpReport
from sevfork.attest.tdx.collateral import Collateral
from sevfork.attest.x509 import Certificate, RevocationList
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology

CERTIFICATE_LIMIT_BYTES = 1 << 20
_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)
_Content = TypeVar("_Content")
_T = TypeVar("_T")


def split_pem(content: bytes) -> list[bytes]:
    """The PEM blocks of a file, each by itself; the whole content where there is none (DER)."""
    return [block[0] + b"\n" for block in _PEM_BLOCK.finditer(content)] or [content]


@dataclass
class Pool:
    """Certificates, revocation lists and collateral that were found in files, in no order."""

    certificates: list[Certificate] = field(default_factory=list)
    lists: list[RevocationList] = field(default_factory=list)
    collateral: list[bytes] = field(default_factory=list)

    @classmethod
    def read(cls, contents: Iterable[bytes]) -> Pool:
        """All that is any of these; whatever else a folder has is passed over."""
        pool = cls()
        for content in contents:
            if content.lstrip().startswith(b"{"):
                pool._add_collateral(content)
            for part in split_pem(content):
                pool._add(part)
        return pool

    def _add(self, content: bytes) -> None:
        certificate = _readable(Certificate.decode, content)
        if certificate is not None:
            self.certificates.append(certificate)
            return
        revocations = _readable(RevocationList.decode, content)
        if revocations is not None:
            self.lists.append(revocations)

    def _add_collateral(self, content: bytes) -> None:
        if _readable(Collateral.decode, content) is not None:
            self.collateral.append(content)

    def complete(self, evidence: Evidence) -> Evidence:
        """The evidence with what it lacks; what came with it stays."""
        if evidence.technology is Technology.TDX:
            collateral = evidence.certificates or b"".join(self.collateral[:1])
            return replace(evidence, certificates=collateral)
        report = _readable(SnpReport.decode, evidence.report)
        table = _readable(CertificateTable.decode, evidence.certificates)
        if report is None or table is None:
            return evidence
        return replace(evidence, certificates=self._table(table, report).encode())

    def _table(self, table: CertificateTable, report: SnpReport) -> CertificateTable:
        slot = "vlek" if report.signing_key is SigningKey.VLEK else "vcek"
        leaf = getattr(table, slot) or self._leaf(f"SEV-{slot.upper()}", report)
        ask = table.ask or self._issuer_of(leaf)
        ark = table.ark or self._issuer_of(ask)
        return replace(table, **{slot: leaf}, ask=ask, ark=ark, crl=table.crl or self._list_of(ark))

    def _leaf(self, name: str, report: SnpReport) -> bytes:
        """Of several the one of this chip and TCB; if there is none, any: the check will say so."""
        leaves = [leaf for leaf in self.certificates if leaf.common_name == name]
        leaves.sort(key=lambda leaf: _likeness(leaf, report), reverse=True)
        return leaves[0].der if leaves else b""

    def _issuer_of(self, content: bytes) -> bytes:
        certificate = _readable(Certificate.decode, content)
        if certificate is None:
            return b""
        issuers = (one for one in self.certificates if one.subject == certificate.issuer)
        return next((issuer.der for issuer in issuers), b"")

    def _list_of(self, content: bytes) -> bytes:
        """The newest revocation list by the issuer's name."""
        issuer = _readable(Certificate.decode, content)
        mine = [one for one in self.lists if issuer and one.issuer == issuer.subject]
        mine.sort(key=lambda one: one.validity.start)
        return mine[-1].der if mine else b""


def _likeness(leaf: Certificate, report: SnpReport) -> tuple[bool, bool]:
    chip = _readable(Endorsement.decode, leaf.extensions)
    if chip is None:
        return False, False
    same_chip = (chip.hardware_id or b"").ljust(len(report.chip_id), b"\0") == report.chip_id
    return same_chip, chip.tcb.encode() == report.reported_tcb


def _readable(decode: Callable[[_Content], _T], content: _Content) -> _T | None:
    try:
        return decode(content)
    except AttestationFailed:
        return None
