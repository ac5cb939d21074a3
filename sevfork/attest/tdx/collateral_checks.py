"""A quote against Intel's collateral: steps (4) and (5) of the examination.

(4) The collateral is Intel's, current, and of this kind of platform; nothing is revoked.
(5) The TCB levels of platform, TDX module and quoting enclave are ones that the policy accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sevfork.attest.tdx.collateral import Collateral, SignedJson
from sevfork.attest.tdx.examination import Examination, Subject
from sevfork.attest.tdx.tcb import Dated, QeIdentity, TcbInfo, TcbLevel, converge, since_launch
from sevfork.attest.x509 import Certificate, Chain, RevocationList, Scheme


def examine_collateral(examination: Examination, subject: Subject, data: bytes) -> None:
    if not data and examination.policy.collateral == "optional":
        examination.findings.warn("TCB level, QE identity, revocation: there is no collateral")
        return
    wanted = "TCB info, QE identity and revocation lists"
    given = examination.findings.obtain(
        "collateral", wanted, lambda: Collateral.decode(data), lambda _: f"{len(data)} bytes"
    )
    if given is None:
        return
    root_crl = _examine_revocation(examination, subject.pck, given)
    tcb_info = _document(examination, subject, root_crl, given.tcb_info, SignedJson.as_tcb_info)
    qe = _document(examination, subject, root_crl, given.qe_identity, SignedJson.as_qe_identity)
    if tcb_info is not None and qe is not None:
        _examine_tcb(examination, subject, tcb_info, qe)


def _examine_revocation(
    examination: Examination, pck: Chain, given: Collateral
) -> RevocationList | None:
    """Check both lists, and the PCK chain by them; the root's list is handed back."""
    leaf, intermediate, root = pck.certificates
    root_crl = _revocation_list(examination, "root revocation list", given.root_ca_crl, root)
    pck_crl = _revocation_list(examination, "PCK revocation list", given.pck_crl, intermediate)
    _not_revoked(examination, "PCK issuer", root_crl, intermediate)
    _not_revoked(examination, "PCK certificate", pck_crl, leaf)
    return root_crl


def _revocation_list(
    examination: Examination, what: str, der: bytes, issuer: Certificate
) -> RevocationList | None:
    """A list that is its issuer's, or None; a stale one still tells who is revoked."""

    def load() -> RevocationList:
        crl = RevocationList.decode(der)
        crl.verify(issuer, Scheme.INTEL)
        return crl

    wanted = f"signed by '{issuer.common_name}'"
    crl = examination.findings.obtain(what, wanted, load, lambda _: wanted)
    if crl is not None:
        examination.valid(what, crl.validity)
        number = -1 if crl.number is None else crl.number
        examination.findings.at_least(
            f"number of the {what}", examination.policy.minimum_crl_number, number
        )
    return crl


def _not_revoked(
    examination: Examination, what: str, crl: RevocationList | None, certificate: Certificate
) -> None:
    if crl is None:
        got, passed = "there is no list to say so", False
    else:
        passed = not crl.names(certificate)
        got = "not revoked" if passed else f"revoked: serial {certificate.serial:x}"
    examination.findings.check(f"revocation of the {what}", "not revoked", got, passed)


_Document = TypeVar("_Document", bound=Dated)


def _document(
    examination: Examination,
    subject: Subject,
    root_crl: RevocationList | None,
    signed: SignedJson,
    parse: Callable[[SignedJson], _Document],
) -> _Document | None:
    """A signed document; it is not parsed unless signature and signer are Intel's."""
    what, wanted = signed.what, "signed by Intel's TCB signing key"
    chain = examination.findings.obtain(what, wanted, signed.verify, lambda _: wanted)
    if chain is None or not _is_signer_good(examination, subject, root_crl, chain):
        return None
    document = examination.findings.obtain(
        f"kind of the {what}",
        "for TDX, of a known version",
        lambda: parse(signed),
        lambda it: it.kind,
    )
    if document is not None:
        examination.valid(what, document.validity)
        least = examination.policy.minimum_tcb_evaluation_number
        got = document.tcb_evaluation_data_number
        examination.findings.at_least(f"TCB evaluation number of the {what}", least, got)
    return document


def _is_signer_good(
    examination: Examination, subject: Subject, root_crl: RevocationList | None, chain: Chain
) -> bool:
    """Whether the signer's chain ends where the PCK chain does; time and revocation are noted."""
    _not_revoked(examination, chain.what, root_crl, chain.leaf)
    examination.valid(chain.what, chain.validity)
    wanted, got = subject.pck.root.fingerprint, chain.root.fingerprint
    return examination.findings.check(f"root of the {chain.what}", wanted, got, wanted == got)


def _examine_tcb(
    examination: Examination, subject: Subject, tcb_info: TcbInfo, identity: QeIdentity
) -> None:
    platform, report = subject.platform, subject.quote.td_report
    wanted, got = (platform.fmspc.hex(), platform.pce_id.hex()), tcb_info.platform_kind
    name = "FMSPC and PCE id of the TCB info"
    examination.findings.check(name, ", ".join(wanted), ", ".join(got), wanted == got)
    qe_report = subject.quote.signature.qe_report
    qe = examination.findings.obtain(
        "TCB of the QE", "Intel's enclave, listed", lambda: (identity.level(qe_report),), _show
    )
    launch = _levels(examination, subject, tcb_info, report.tee_tcb_svn, "at launch")
    now = launch
    if report.tee_tcb_svn2 is not None:
        now = _levels(examination, subject, tcb_info, report.tee_tcb_svn2, "now")
    if launch is not None and now is not None and qe is not None:
        _examine_status(examination, (*launch, *qe), (*now, *qe))


_Levels = Sequence[TcbLevel]


def _levels(
    examination: Examination, subject: Subject, tcb_info: TcbInfo, tee_tcb_svn: bytes, when: str
) -> _Levels | None:
    """The levels of platform and TDX module under one TEE TCB, or None after a failed check."""
    platform, report = subject.platform, subject.quote.td_report
    of_platform = examination.findings.obtain(
        f"TCB of the platform {when}",
        "a level that Intel lists",
        lambda: (tcb_info.platform_level(platform, tee_tcb_svn),),
        _show,
    )
    of_module = examination.findings.obtain(
        f"TCB of the TDX module {when}",
        "Intel's module, listed",
        lambda: tcb_info.module_levels(report, tee_tcb_svn),
        _show,
    )
    if of_platform is None or of_module is None:
        return None
    return (*of_platform, *of_module)


def _show(levels: _Levels) -> str:
    return "; ".join(map(str, levels)) or "Intel's, of version 0: it has no levels of its own"


def _examine_status(examination: Examination, launch: _Levels, now: _Levels) -> None:
    findings, policy = examination.findings, examination.policy
    findings.fact("TCB date", f"{min(level.tcb_date for level in launch):%Y-%m-%d}")
    at_launch, at_present = (
        converge(level.tcb_status for level in levels) for levels in (launch, now)
    )
    status = since_launch(at_launch, at_present)
    findings.accepted("TCB status", policy.tcb_statuses, status.value)
    advisories = sorted({advisory for level in launch for advisory in level.advisories})
    findings.fact("advisories", ", ".join(advisories) or "none")
    for advisory in advisories:
        findings.accepted("advisory", policy.advisories, advisory)
