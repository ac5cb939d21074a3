"""What a host hands a guest to complete evidence with: certificates, lists, collateral.

They are encoded as beside a report: an SNP certificate table, or Intel's collateral as JSON. None
of it is believed for being here. It takes its place in evidence, and ``verify`` checks it like what
the evidence came with. Two places are meant:

- **fill**: what the evidence lacks. Without it the verdict would be about nothing but the gap.
- **renew**: lists and documents in place of older ones of the same subject, so that a host which
  has handed over a revocation once cannot take it back by bringing an older list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol, Self, TypeVar

from msgspec import Struct
from msgspec.structs import asdict, replace

from sevfork.attest.evidence import Evidence
from sevfork.attest.snp.certificates import CertificateTable
from sevfork.attest.tdx.collateral import Collateral
from sevfork.attest.x509 import Certificate, RevocationList
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology

_Content = TypeVar("_Content")
_T = TypeVar("_T")


class Endorsements(Protocol):
    """What was handed over for one technology."""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raise AttestationFailed unless all of it can be read."""

    def after(self, earlier: Self) -> Self:
        """What is held when this comes after ``earlier``: of what has a date, nothing older."""

    def filled(self, evidence: Evidence) -> Evidence:
        """The evidence with what it lacks; what cannot be read is left for the verdict to name."""

    def renewed(self, evidence: Evidence) -> Evidence:
        """The evidence with lists and documents of ours that are newer than its own."""


def endorsements(technology: Technology, data: bytes) -> Endorsements:
    """The simulated processor's certificates are of the form of AMD's."""
    if technology is Technology.TDX:
        return TdxEndorsements.decode(data)
    return SnpEndorsements.decode(data)


def readable(decode: Callable[[_Content], _T], content: _Content) -> _T | None:
    """What it decodes to, or None: for choosing, where the verdict says what is wrong with it."""
    try:
        return decode(content)
    except AttestationFailed:
        return None


class SnpEndorsements(Struct, frozen=True):
    """AMD's certificates and revocation list; any of them may be absent."""

    table: CertificateTable

    @classmethod
    def decode(cls, data: bytes) -> Self:
        table = CertificateTable.decode(data)
        for content in filter(None, (table.vcek, table.vlek, table.ask, table.ark)):
            Certificate.decode(content)
        if table.crl:
            RevocationList.decode(table.crl)
        return cls(table)

    def after(self, earlier: Self) -> Self:
        own, before = self.table, earlier.table
        older = own.crl and before.crl and _start(own.crl) < _start(before.crl)
        crl = before.crl if older else own.crl
        return replace(self, table=_filled(replace(own, crl=crl), before))

    def filled(self, evidence: Evidence) -> Evidence:
        table = readable(CertificateTable.decode, evidence.certificates)
        if table is None:
            return evidence
        return _with_table(evidence, table, _filled(table, self.table))

    def renewed(self, evidence: Evidence) -> Evidence:
        table = readable(CertificateTable.decode, evidence.certificates)
        theirs = readable(RevocationList.decode, table.crl) if table and table.crl else None
        ours = RevocationList.decode(self.table.crl) if self.table.crl else None
        if table is None or theirs is None or ours is None or ours.issuer != theirs.issuer:
            return evidence
        newer = ours.validity.start > theirs.validity.start
        return _with_table(evidence, table, replace(table, crl=self.table.crl) if newer else table)


def _start(crl: bytes) -> datetime:
    return RevocationList.decode(crl).validity.start


def _filled(table: CertificateTable, other: CertificateTable) -> CertificateTable:
    ours, theirs = asdict(table), asdict(other)
    return CertificateTable(**{name: own or theirs[name] for name, own in ours.items()})


def _with_table(evidence: Evidence, before: CertificateTable, table: CertificateTable) -> Evidence:
    """What changes nothing leaves the very bytes as they are, foreign entries among them."""
    return evidence if table == before else replace(evidence, certificates=table.encode())


class TdxEndorsements(Struct, frozen=True):
    """Intel's collateral, all of it, with what each part is of and when it was issued."""

    collateral: Collateral
    parts: Mapping[str, _Part]

    @classmethod
    def decode(cls, data: bytes) -> Self:
        collateral = Collateral.decode(data)
        return cls(collateral, {name: read(collateral) for name, read in _PARTS.items()})

    def after(self, earlier: Self) -> Self:
        held = {
            name: earlier
            for name, part in self.parts.items()
            if part.issued < earlier.parts[name].issued
        }
        return self.taking(held)

    def filled(self, evidence: Evidence) -> Evidence:
        if evidence.certificates:
            return evidence
        return replace(evidence, certificates=self.collateral.encode())

    def renewed(self, evidence: Evidence) -> Evidence:
        theirs = readable(type(self).decode, evidence.certificates)
        if theirs is None:
            return evidence
        newer = {
            name: self
            for name, part in self.parts.items()
            if part.subject == theirs.parts[name].subject
            and part.issued > theirs.parts[name].issued
        }
        if not newer:
            return evidence
        return replace(evidence, certificates=theirs.taking(newer).collateral.encode())

    def taking(self, others: Mapping[str, Self]) -> Self:
        """This, with each part that is named taken from somebody else's."""
        contents: Any = {name: getattr(other.collateral, name) for name, other in others.items()}
        parts = {name: other.parts[name] for name, other in others.items()}
        return replace(
            self,
            collateral=replace(self.collateral, **contents),
            parts={**self.parts, **parts},
        )


class _Part(Struct, frozen=True):
    """Read before anything is verified, and only to choose by: the verdict is on what it is."""

    subject: object
    issued: datetime


def _of_tcb_info(collateral: Collateral) -> _Part:
    info = collateral.tcb_info.as_tcb_info()
    return _Part(info.platform_kind, info.issue_date)


def _of_identity(collateral: Collateral) -> _Part:
    identity = collateral.qe_identity.as_qe_identity()
    return _Part(identity.kind, identity.issue_date)


def _of_list(der: bytes) -> _Part:
    crl = RevocationList.decode(der)
    return _Part(crl.issuer, crl.validity.start)


_PARTS: Mapping[str, Callable[[Collateral], _Part]] = {
    "tcb_info": _of_tcb_info,
    "qe_identity": _of_identity,
    "root_ca_crl": lambda collateral: _of_list(collateral.root_ca_crl),
    "pck_crl": lambda collateral: _of_list(collateral.pck_crl),
}
