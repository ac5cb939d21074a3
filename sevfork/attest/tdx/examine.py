"""A TDX quote against a policy: the list of all checks, made in order.

(1) The quote parses, and is of a version that the policy accepts.
(2) The PCK certificate's chain ends in a root that the policy pins, and is valid at the time.
(3) The PCK key signed the quoting enclave's report; that enclave is Intel's, and vouches for the
    attestation key; the attestation key signed the quote.
(4) Intel's collateral is Intel's, current, and of this kind of platform; nothing is revoked.
(5) The TCB levels of platform, TDX module and quoting enclave are ones that the policy accepts.
(6) The TD itself is one that the policy accepts: attributes, module, registers.

A check that cannot be made is a failed one. Without collateral (4) and (5) cannot be made: a policy
that says ``collateral = "optional"`` gives them up in words, and the verdict lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from cryptography import x509

from sevfork.attest.evidence import Evidence
from sevfork.attest.policy import TDX_ATTRIBUTE_BITS, Policy, Rule, TdxPolicy
from sevfork.attest.snp.examine import check_bits
from sevfork.attest.tdx.chain import (
    PCK_CHAIN,
    Chain,
    common_name,
    verify_attestation_key_binding,
    verify_qe_is_intels,
    verify_qe_report,
    verify_quote_signature,
)
from sevfork.attest.tdx.collateral import Collateral, RevocationList, SignedJson
from sevfork.attest.tdx.pck import Platform
from sevfork.attest.tdx.quote import Quote, TdReport
from sevfork.attest.tdx.tcb import Dated, QeIdentity, TcbInfo, TcbLevel, converge, since_launch
from sevfork.attest.verdict import Claims, Findings, LaunchIdentity
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology

_T = TypeVar("_T")

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_CHAIN_HOLDS = "names, uses and signatures in order"
_LAUNCH_IDENTITY = (
    "mrtd", "rtmr0", "rtmr1", "rtmr2", "td_attributes", "xfam", "mrseam", "mrsignerseam", "mrowner",
    "mrownerconfig",
)  # fmt: skip


def examine(evidence: Evidence, policy: Policy, at: datetime, findings: Findings) -> Claims:
    """Note every check of a TDX quote; raise AttestationFailed if it cannot be read at all."""
    if policy.tdx is None:
        raise AttestationFailed("the policy has no section 'tdx'")
    subject = _Subject.read(evidence.report)
    examiner = _Examiner(policy.roots, policy.tdx, at, findings)
    _facts(subject, findings)
    if _examine_quote(examiner, subject):
        _examine_collateral(examiner, subject, evidence.certificates)
    else:
        findings.unchecked("Intel's collateral: there is no PCK chain to check it by")
    _examine_platform(examiner, subject.platform)
    _examine_td(examiner, subject.quote.td_report)
    return _claims(subject)


@dataclass(frozen=True)
class _Subject:
    """What is being examined: the quote, and the certificates that it carries."""

    quote: Quote
    pck: Chain
    platform: Platform

    @classmethod
    def read(cls, report: bytes) -> _Subject:
        quote = Quote.decode(report)
        pck = Chain.load("PCK chain", quote.signature.pck_chain_pem)
        return cls(quote, pck, Platform.of(pck.leaf))


@dataclass(frozen=True)
class _Examiner:
    """Who looks, with what rules, at what time, and where it is written down."""

    roots: tuple[str, ...]
    policy: TdxPolicy
    at: datetime
    findings: Findings

    def obtain(
        self, name: str, wanted: str, action: Callable[[], _T], show: Callable[[_T], str]
    ) -> _T | None:
        """Note whether an action succeeds; its result, or None after an AttestationFailed."""
        try:
            result = action()
        except AttestationFailed as exc:
            self.findings.check(name, wanted, exc.message, passed=False)
            return None
        self.findings.check(name, wanted, show(result), passed=True)
        return result

    def holds(self, name: str, wanted: str, action: Callable[[], None]) -> bool:
        """The same for an action that returns nothing."""

        def done() -> bool:
            action()
            return True

        return self.obtain(name, wanted, done, lambda _: wanted) or False

    def minimum(self, name: str, least: int, got: int) -> None:
        self.findings.check(name, f"at least {least}", str(got), got >= least)

    def valid(self, what: str, validity: tuple[datetime, datetime]) -> None:
        """Note whether a span of time has the examination's time in it."""
        start, end = validity
        got = f"from {start:{_TIME}} to {end:{_TIME}}"
        wanted = f"valid at {self.at:{_TIME}}"
        self.findings.check(f"validity of the {what}", wanted, got, start <= self.at <= end)


def _claims(subject: _Subject) -> Claims:
    report = subject.quote.td_report
    identity = tuple((name, getattr(report, name)) for name in _LAUNCH_IDENTITY)
    return Claims(
        technology=Technology.TDX,
        report_data=report.report_data,
        launch_config_hash=report.mrconfigid,
        launch_identity=LaunchIdentity(Technology.TDX, identity),
        report_id=None,  # a TDX quote has none: the key in report data is the instance's identity
        chip_id=subject.platform.ppid,
    )


def _facts(subject: _Subject, findings: Findings) -> None:
    quote, report, platform = subject.quote, subject.quote.td_report, subject.platform
    findings.fact("quote version", str(quote.version))
    findings.fact("platform", platform.ppid.hex())
    findings.fact("FMSPC", platform.fmspc.hex())
    findings.fact("CPU SVNs", platform.svns_text)
    findings.fact("TEE TCB SVN at launch", report.tee_tcb_svn.hex())
    if report.tee_tcb_svn2 is not None:
        findings.fact("TEE TCB SVN now", report.tee_tcb_svn2.hex())
    findings.fact("QE SVN", str(quote.signature.qe_report.isv_svn))
    for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrconfigid", "mrowner", "mrseam"):
        findings.fact(name.upper(), getattr(report, name).hex())
    findings.fact("report data", report.report_data.hex())


# (1) to (3): the quote and its signatures


def _examine_quote(examiner: _Examiner, subject: _Subject) -> bool:
    """True if the PCK chain hangs together (whatever its root is)."""
    quote, pck, signature = subject.quote, subject.pck, subject.quote.signature
    examiner.minimum("quote version", examiner.policy.minimum_quote_version, quote.version)
    chain_holds = examiner.holds(pck.what, _CHAIN_HOLDS, lambda: pck.verify(PCK_CHAIN))
    examiner.findings.accepted(f"root of the {pck.what}", examiner.roots, pck.root_sha256)
    examiner.valid(pck.what, pck.validity)
    steps: tuple[tuple[str, str, Callable[[], None]], ...] = (
        ("QE report", "signed by the PCK key", lambda: verify_qe_report(signature, pck)),
        ("quoting enclave", "Intel's", lambda: verify_qe_is_intels(signature.qe_report)),
        ("attestation key", "named by the QE", lambda: verify_attestation_key_binding(signature)),
        ("signature", "by the attestation key", lambda: verify_quote_signature(quote)),
    )
    for name, wanted, step in steps:
        examiner.holds(name, wanted, step)
    examiner.minimum("QE SVN", examiner.policy.minimum_qe_svn, signature.qe_report.isv_svn)
    if quote.trailing_bytes:
        what = f"{quote.trailing_bytes} bytes after the quote"
        examiner.findings.unchecked(f"{what}: nobody signs them, and nothing reads them")
    return chain_holds


# (4): Intel's collateral


def _examine_collateral(examiner: _Examiner, subject: _Subject, data: bytes) -> None:
    if not data and examiner.policy.collateral == "optional":
        examiner.findings.unchecked("TCB level, QE identity, revocation: there is no collateral")
        return
    wanted = "TCB info, QE identity and revocation lists"
    given = examiner.obtain(
        "collateral", wanted, lambda: Collateral.decode(data), lambda _: f"{len(data)} bytes"
    )
    if given is None:
        return
    root_crl = _examine_revocation(examiner, subject.pck, given)
    tcb_info = _document(examiner, subject, root_crl, given.tcb_info, SignedJson.as_tcb_info)
    qe = _document(examiner, subject, root_crl, given.qe_identity, SignedJson.as_qe_identity)
    if tcb_info is not None and qe is not None:
        _examine_tcb(examiner, subject, tcb_info, qe)


def _examine_revocation(
    examiner: _Examiner, pck: Chain, given: Collateral
) -> RevocationList | None:
    """Check both lists, and the PCK chain by them; the root's list is handed back."""
    leaf, intermediate, root = pck.certificates
    root_crl = _revocation_list(examiner, "root revocation list", given.root_ca_crl, root)
    pck_crl = _revocation_list(examiner, "PCK revocation list", given.pck_crl, intermediate)
    _not_revoked(examiner, "PCK issuer", root_crl, intermediate)
    _not_revoked(examiner, "PCK certificate", pck_crl, leaf)
    return root_crl


def _revocation_list(
    examiner: _Examiner, what: str, der: bytes, issuer: x509.Certificate
) -> RevocationList | None:
    """A list that is its issuer's, or None; a stale one still tells who is revoked."""

    def load() -> RevocationList:
        crl = RevocationList.load(what, der)
        crl.verify(issuer)
        return crl

    wanted = f"signed by '{common_name(issuer)}'"
    crl = examiner.obtain(what, wanted, load, lambda _: wanted)
    if crl is not None:
        examiner.valid(what, crl.validity)
        number = -1 if crl.number is None else crl.number
        examiner.minimum(f"number of the {what}", examiner.policy.minimum_crl_number, number)
    return crl


def _not_revoked(
    examiner: _Examiner, what: str, crl: RevocationList | None, certificate: x509.Certificate
) -> None:
    if crl is None:
        got, passed = "there is no list to say so", False
    else:
        passed = not crl.names(certificate)
        got = "not revoked" if passed else f"revoked: serial {certificate.serial_number:x}"
    examiner.findings.check(f"revocation of the {what}", "not revoked", got, passed)


_Document = TypeVar("_Document", bound=Dated)


def _document(
    examiner: _Examiner,
    subject: _Subject,
    root_crl: RevocationList | None,
    signed: SignedJson,
    parse: Callable[[SignedJson], _Document],
) -> _Document | None:
    """A signed document; it is not parsed unless signature and signer are Intel's."""
    what, wanted = signed.what, "signed by Intel's TCB signing key"
    chain = examiner.obtain(what, wanted, signed.verify, lambda _: wanted)
    if chain is None or not _is_signer_good(examiner, subject, root_crl, chain):
        return None
    document = examiner.obtain(
        f"kind of the {what}",
        "for TDX, of a known version",
        lambda: parse(signed),
        lambda it: it.kind,
    )
    if document is not None:
        examiner.valid(what, document.validity)
        least = examiner.policy.minimum_tcb_evaluation_number
        got = document.tcb_evaluation_data_number
        examiner.minimum(f"TCB evaluation number of the {what}", least, got)
    return document


def _is_signer_good(
    examiner: _Examiner, subject: _Subject, root_crl: RevocationList | None, chain: Chain
) -> bool:
    """Whether the signer's chain ends where the PCK chain does; time and revocation are noted."""
    _not_revoked(examiner, chain.what, root_crl, chain.leaf)
    examiner.valid(chain.what, chain.validity)
    wanted, got = subject.pck.root_sha256, chain.root_sha256
    return examiner.findings.check(f"root of the {chain.what}", wanted, got, wanted == got)


# (5): the TCB


def _examine_tcb(
    examiner: _Examiner, subject: _Subject, tcb_info: TcbInfo, identity: QeIdentity
) -> None:
    platform, report = subject.platform, subject.quote.td_report
    wanted, got = (platform.fmspc.hex(), platform.pce_id.hex()), tcb_info.platform_kind
    name = "FMSPC and PCE id of the TCB info"
    examiner.findings.check(name, ", ".join(wanted), ", ".join(got), wanted == got)
    qe_report = subject.quote.signature.qe_report
    qe = examiner.obtain(
        "TCB of the QE", "Intel's enclave, listed", lambda: (identity.level(qe_report),), _show
    )
    launch = _levels(examiner, subject, tcb_info, report.tee_tcb_svn, "at launch")
    now = launch
    if report.tee_tcb_svn2 is not None:
        now = _levels(examiner, subject, tcb_info, report.tee_tcb_svn2, "now")
    if launch is not None and now is not None and qe is not None:
        _examine_status(examiner, (*launch, *qe), (*now, *qe))


_Levels = Sequence[TcbLevel]


def _levels(
    examiner: _Examiner, subject: _Subject, tcb_info: TcbInfo, tee_tcb_svn: bytes, when: str
) -> _Levels | None:
    """The levels of platform and TDX module under one TEE TCB, or None after a failed check."""
    platform, report = subject.platform, subject.quote.td_report
    of_platform = examiner.obtain(
        f"TCB of the platform {when}",
        "a level that Intel lists",
        lambda: (tcb_info.platform_level(platform, tee_tcb_svn),),
        _show,
    )
    of_module = examiner.obtain(
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


def _examine_status(examiner: _Examiner, launch: _Levels, now: _Levels) -> None:
    findings, policy = examiner.findings, examiner.policy
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


# (6): the platform and the TD


def _examine_platform(examiner: _Examiner, platform: Platform) -> None:
    findings, policy = examiner.findings, examiner.policy
    ppid = platform.ppid.hex()
    findings.accepted("FMSPC", policy.fmspcs, platform.fmspc.hex())
    findings.accepted("accepted platforms", policy.platforms, ppid)
    if policy.denied_platforms:
        wanted = f"none of {len(policy.denied_platforms)}"
        findings.check("denied platforms", wanted, ppid, ppid not in policy.denied_platforms)


def _examine_td(examiner: _Examiner, report: TdReport) -> None:
    findings, policy = examiner.findings, examiner.policy
    attributes = int.from_bytes(report.td_attributes, "little")
    check_bits(findings, "TD attributes", policy.attributes, attributes, TDX_ATTRIBUTE_BITS)
    for name, rule, got in _ruled(policy, report):
        findings.accepted(name, rule, got.hex())
    least, got = bytes.fromhex(policy.minimum_tee_tcb_svn), report.tee_tcb_svn
    enough = all(have >= want for have, want in zip(got, least, strict=True))
    findings.check("TEE TCB SVN", f"each at least {least.hex()}", got.hex(), enough)
    if report.mrservicetd is None:
        _absent_service_td(examiner)
    else:
        findings.accepted("MRSERVICETD", policy.mrservicetd, report.mrservicetd.hex())


def _absent_service_td(examiner: _Examiner) -> None:
    findings, rule = examiner.findings, examiner.policy.mrservicetd
    got = "unknown: this kind of quote does not say"
    if rule == "any":
        findings.unchecked(f"MRSERVICETD: {got}")
    else:
        findings.check("MRSERVICETD", "one of: " + ", ".join(rule), got, passed=False)


def _ruled(policy: TdxPolicy, report: TdReport) -> tuple[tuple[str, Rule, bytes], ...]:
    """Each measured value that has a rule of its own."""
    return (
        ("MRSEAM", policy.mrseam, report.mrseam),
        ("MRSIGNERSEAM", policy.mrsigner_seam, report.mrsignerseam),
        ("SEAM attributes", policy.seam_attributes, report.seam_attributes),
        ("XFAM", policy.xfam, report.xfam),
        ("MRTD", policy.mrtd, report.mrtd),
        ("MRCONFIGID", policy.mrconfigid, report.mrconfigid),
        ("MROWNER", policy.mrowner, report.mrowner),
        ("MROWNERCONFIG", policy.mrownerconfig, report.mrownerconfig),
        ("RTMR0", policy.rtmr0, report.rtmr0),
        ("RTMR1", policy.rtmr1, report.rtmr1),
        ("RTMR2", policy.rtmr2, report.rtmr2),
        ("RTMR3", policy.rtmr3, report.rtmr3),
    )
