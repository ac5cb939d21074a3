"""Certificates, revocation lists and collateral that are at hand, to complete evidence with.

Which of them are tried decides nothing about trust, because all of them are checked afterwards. It
decides what the verdict says: so the leaf that made the signature is taken and not its namesake,
and of lists and documents the newest that there was at the time of the verification.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from cryptography.hazmat.primitives.serialization import Encoding
from msgspec.structs import replace

from sevfork.attest.endorsements import readable
from sevfork.attest.evidence import Evidence
from sevfork.attest.snp.certificates import CertificateTable, Endorsement
from sevfork.attest.snp.report import SigningKey, SnpReport
from sevfork.attest.snp.signer import has_signed, is_signed_by
from sevfork.attest.tdx.collateral import Collateral, SignedJson
from sevfork.attest.tdx.examination import Subject
from sevfork.attest.verdict import printable
from sevfork.attest.x509 import Certificate, Chain, RevocationList, Scheme
from sevfork.errors import UsageError
from sevfork.technology import Technology
from sevfork.verifier.amd import amd_authorities
from sevfork.verifier.certificate_files import CertificateFile

_TCB_SIGNER = "Intel SGX TCB Signing"
_NEVER = datetime.min.replace(tzinfo=UTC)
_T = TypeVar("_T")


@dataclass
class Pool:
    """What was found in files, in no order; ``at`` is the time that it is to be judged at."""

    at: datetime
    certificates: list[Certificate] = field(default_factory=list)
    lists: list[RevocationList] = field(default_factory=list)
    documents: list[SignedJson] = field(default_factory=list)

    @classmethod
    def read(cls, files: Iterable[CertificateFile], at: datetime) -> Pool:
        """All that the files hold; raise UsageError for one that cannot be read."""
        pool = cls(at)
        for file in files:
            for item in file.items():
                pool.add(item)
        return pool

    def add(self, item: Certificate | RevocationList | SignedJson) -> None:
        if isinstance(item, Certificate):
            self.certificates.append(item)
        elif isinstance(item, RevocationList):
            self.lists.append(item)
        else:
            self.documents.append(item)

    def complete(self, evidence: Evidence) -> Evidence:
        """The evidence with what it lacks; its own certificates stay, unless only others fit it.

        Raise UsageError if there is some of Intel's collateral, but not all of it.
        """
        if evidence.technology is Technology.TDX:
            return self._with_collateral(evidence)
        report = readable(SnpReport.decode, evidence.report)
        table = readable(CertificateTable.decode, evidence.certificates)
        if report is None or table is None:
            return evidence
        return replace(evidence, certificates=self._table(table, report).encode())

    # AMD

    def _table(self, table: CertificateTable, report: SnpReport) -> CertificateTable:
        slot = "vlek" if report.signing_key is SigningKey.VLEK else "vcek"
        leaf = self._leaf(f"SEV-{slot.upper()}", getattr(table, slot), report)
        ask = self._issuer_of(leaf, table.ask)
        ark = self._issuer_of(ask, table.ark)
        return replace(table, **{slot: leaf}, ask=ask, ark=ark, crl=self._list_of(ark, table.crl))

    def _leaf(self, name: str, own: bytes, report: SnpReport) -> bytes:
        """The one whose key signed the report; else the evidence's own; else the most like it."""
        leaves = [leaf for leaf in self.certificates if leaf.common_name == name]
        signers = [leaf for leaf in leaves if is_signed_by(Chain("leaf", (leaf,)), report)]
        if own and (not signers or has_signed(own, report)):
            return own
        best = max(signers or leaves, key=lambda leaf: _likeness(leaf, report), default=None)
        return best.der if best else own

    def _issuer_of(self, content: bytes, own: bytes) -> bytes:
        """The issuer that signed it, of all that bear its name; what comes with sevfork is last."""
        certificate, mine = (readable(Certificate.decode, one) for one in (content, own))
        if certificate is None or (own and mine is None):
            return own
        if mine is not None and certificate.issued_by(mine, Scheme.AMD):
            return own
        named = [
            issuer
            for issuer in (*self.certificates, *amd_authorities())
            if issuer.subject == certificate.issuer
        ]
        signers = [issuer for issuer in named if certificate.issued_by(issuer, Scheme.AMD)]
        if own:
            return signers[0].der if signers else own
        return next((issuer.der for issuer in (*signers, *named)), b"")

    def _list_of(self, root: bytes, own: bytes) -> bytes:
        """The evidence's own list counts as one of several: its host may have kept an old one."""
        issuer = readable(Certificate.decode, root)
        mine = readable(RevocationList.decode, own) if own else None
        if issuer is None or (own and mine is None):
            return own
        lists = [crl for crl in self.lists if crl.issuer == issuer.subject]
        newest = self._newest([*lists, *([mine] if mine else [])], lambda crl: crl.validity.start)
        return newest.der if newest else own

    # Intel

    def _with_collateral(self, evidence: Evidence) -> Evidence:
        subject = readable(Subject.decode, evidence.report)
        pool = self._and_own(evidence.certificates)
        if subject is None or pool is None or len(subject.pck.certificates) != 3:
            return evidence
        try:
            collateral = pool.collateral(subject)
        except UsageError:
            if evidence.certificates:
                return evidence  # It came with some that does not fit it: that is for the verdict.
            raise
        return replace(evidence, certificates=collateral.encode()) if collateral else evidence

    def _and_own(self, certificates: bytes) -> Pool | None:
        """With what the evidence came with; None if that cannot be read, which the verdict says."""
        if not certificates:
            return self
        own = readable(Collateral.decode, certificates)
        lists = (own.root_ca_crl, own.pck_crl) if own else ()
        decoded = [readable(RevocationList.decode, der) for der in lists]
        if own is None or None in decoded:
            return None
        documents = [*self.documents, own.tcb_info, own.qe_identity]
        known = [crl for crl in decoded if crl is not None]
        return dataclasses.replace(self, lists=[*self.lists, *known], documents=documents)

    def collateral(self, subject: Subject) -> Collateral | None:
        """For the quote's kind of platform; None if there is nothing of Intel's at all."""
        _, intermediate, root = subject.pck.certificates
        kind = subject.platform.fmspc.hex()
        tcb_info = self._tcb_info(kind) or self._document("TCB info")
        identity = self._qe_identity() or self._document("QE identity")
        root_crl, pck_crl = (self._intel_list(issuer) for issuer in (root, intermediate))
        parts = {
            "TCB info": tcb_info,
            "QE identity": identity,
            f"revocation list of '{root.common_name}'": root_crl,
            f"revocation list of '{intermediate.common_name}'": pck_crl,
        }
        if not any(parts.values()):
            return None
        if not (tcb_info and identity and root_crl and pck_crl):
            missing = printable(", ".join(what for what, part in parts.items() if not part))
            raise UsageError(f"Intel's collateral is not whole: there is no {missing}")
        tcb_info, identity = self._with_chain(tcb_info, root), self._with_chain(identity, root)
        return Collateral(tcb_info, identity, root_crl.der, pck_crl.der)

    def _tcb_info(self, fmspc: str) -> SignedJson | None:
        """Of this FMSPC; it is read before it is verified, but only to choose it."""
        read = [(one, readable(SignedJson.as_tcb_info, one)) for one in self.documents]
        fitting = [(one, info) for one, info in read if info and info.platform_kind[0] == fmspc]
        newest = self._newest(fitting, lambda pair: pair[1].issue_date)
        return newest[0] if newest else None

    def _qe_identity(self) -> SignedJson | None:
        read = [(one, readable(SignedJson.as_qe_identity, one)) for one in self.documents]
        identities = [(one, identity) for one, identity in read if identity]
        newest = self._newest(identities, lambda pair: pair[1].issue_date)
        return newest[0] if newest else None

    def _document(self, what: str) -> SignedJson | None:
        """Any of that name, where none fits: the verdict will say what is wrong with it."""
        return next((one for one in self.documents if one.what == what), None)

    def _intel_list(self, issuer: Certificate) -> RevocationList | None:
        lists = [crl for crl in self.lists if crl.issuer == issuer.subject]
        return self._newest(lists, lambda crl: crl.validity.start)

    def _with_chain(self, document: SignedJson, root: Certificate) -> SignedJson:
        """A document that came without its signer's chain gets it from the certificates."""
        if document.issuer_chain:
            return document
        signers = [one for one in self.certificates if one.common_name == _TCB_SIGNER]
        newest = self._newest(signers, lambda signer: signer.validity.start)
        if newest is None:
            raise UsageError(
                f"Intel's collateral is not whole: there is no certificate '{_TCB_SIGNER}'",
                hint="it is in the headers of the answer; 'curl -i' keeps them",
            )
        return replace(document, issuer_chain=_pem(newest) + _pem(root))

    def _newest(self, candidates: Iterable[_T], issued: Callable[[_T], datetime]) -> _T | None:
        """The last that there was at the time of the verification; else the one that came next."""

        def order(candidate: _T) -> tuple[bool, float]:
            age_s = (self.at - issued(candidate)).total_seconds()
            return age_s >= 0, -abs(age_s)

        return max(candidates, key=order, default=None)


def _pem(certificate: Certificate) -> bytes:
    return certificate.parsed.public_bytes(Encoding.PEM)


def _likeness(leaf: Certificate, report: SnpReport) -> tuple[bool, bool]:
    chip = readable(Endorsement.decode, leaf.extensions)
    if chip is None:
        return False, False
    same_chip = (chip.hardware_id or b"").ljust(len(report.chip_id), b"\0") == report.chip_id
    return same_chip, chip.tcb.encode() == report.reported_tcb
