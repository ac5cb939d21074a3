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

from collections.abc import Callable
from datetime import datetime

from sevfork.attest.bits import TDX_ATTRIBUTE_BITS, XFAM_BITS, Bits, Rule, bit_names, check_bits
from sevfork.attest.evidence import Evidence
from sevfork.attest.policy import Policy, TdxPolicy
from sevfork.attest.tdx.chain import (
    PCK_CHAIN,
    verify_attestation_key_binding,
    verify_qe_is_intels,
    verify_qe_report,
    verify_quote_signature,
)
from sevfork.attest.tdx.collateral_checks import examine_collateral
from sevfork.attest.tdx.examination import Examination, Subject
from sevfork.attest.tdx.pck import Platform
from sevfork.attest.tdx.quote import TdReport
from sevfork.attest.verdict import Claims, Findings, LaunchIdentity
from sevfork.attest.x509 import Scheme
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology

_CHAIN_HOLDS = "names, uses and signatures in order"
# A TDX module launches no guest without x87 and SSE, and knows no other bits (TDX module ABI).
_XFAM_RULE = Bits(allowed=tuple(XFAM_BITS.values()), required=("x87", "sse"))
_LAUNCH_IDENTITY = (
    "mrtd", "rtmr0", "rtmr1", "rtmr2", "td_attributes", "xfam", "mrseam", "mrsignerseam", "mrowner",
    "mrownerconfig",
)  # fmt: skip


def examine(evidence: Evidence, policy: Policy, at: datetime, findings: Findings) -> Claims:
    """Note every check of a TDX quote; raise AttestationFailed if it cannot be read at all."""
    if policy.tdx is None:
        raise AttestationFailed("the policy has no section 'tdx'")
    subject = Subject.decode(evidence.report)
    examination = Examination(policy.roots, policy.tdx, at, findings)
    _facts(subject, findings)
    if _examine_quote(examination, subject):
        examine_collateral(examination, subject, evidence.certificates)
    else:
        findings.unchecked("Intel's collateral: there is no PCK chain to check it by")
    _examine_platform(examination, subject.platform)
    _examine_td(examination, subject.quote.td_report)
    return _claims(subject)


def _claims(subject: Subject) -> Claims:
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


def _facts(subject: Subject, findings: Findings) -> None:
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
    service_td = report.mrservicetd
    findings.fact("MRSERVICETD", service_td.hex() if service_td else "not in this kind of quote")
    findings.fact("XFAM", ", ".join(bit_names(_number(report.xfam), XFAM_BITS)))
    findings.fact("report data", report.report_data.hex())


# (1) to (3): the quote and its signatures


def _examine_quote(examination: Examination, subject: Subject) -> bool:
    """True if the PCK chain hangs together (whatever its root is)."""
    quote, pck, signature = subject.quote, subject.pck, subject.quote.signature
    examination.findings.at_least(
        "quote version", examination.policy.minimum_quote_version, quote.version
    )
    chain_holds = examination.findings.holds(
        pck.what, _CHAIN_HOLDS, lambda: pck.verify(PCK_CHAIN, Scheme.INTEL)
    )
    examination.findings.accepted(
        f"root of the {pck.what}", examination.roots, pck.root.fingerprint
    )
    examination.valid(pck.what, pck.validity)
    steps: tuple[tuple[str, str, Callable[[], None]], ...] = (
        ("QE report", "signed by the PCK key", lambda: verify_qe_report(signature, pck)),
        ("quoting enclave", "Intel's", lambda: verify_qe_is_intels(signature.qe_report)),
        ("attestation key", "named by the QE", lambda: verify_attestation_key_binding(signature)),
        ("signature", "by the attestation key", lambda: verify_quote_signature(quote)),
    )
    for name, wanted, step in steps:
        examination.findings.holds(name, wanted, step)
    examination.findings.at_least(
        "QE SVN", examination.policy.minimum_qe_svn, signature.qe_report.isv_svn
    )
    if quote.trailing_bytes:
        what = f"{quote.trailing_bytes} bytes after the quote"
        examination.findings.unchecked(f"{what}: nobody signs them, and nothing reads them")
    return chain_holds


# (6): the platform and the TD


def _examine_platform(examination: Examination, platform: Platform) -> None:
    findings, policy = examination.findings, examination.policy
    ppid = platform.ppid.hex()
    findings.accepted("FMSPC", policy.fmspcs, platform.fmspc.hex())
    findings.accepted("accepted platforms", policy.platforms, ppid)
    if policy.denied_platforms:
        wanted = f"none of {len(policy.denied_platforms)}"
        findings.check("denied platforms", wanted, ppid, ppid not in policy.denied_platforms)


def _examine_td(examination: Examination, report: TdReport) -> None:
    findings, policy = examination.findings, examination.policy
    attributes = _number(report.td_attributes)
    check_bits(findings, "TD attributes", policy.attributes, attributes, TDX_ATTRIBUTE_BITS)
    check_bits(findings, "XFAM bits", _XFAM_RULE, _number(report.xfam), XFAM_BITS)
    for name, rule, got in _ruled(policy, report):
        findings.accepted(name, rule, got.hex())
    least, got = bytes.fromhex(policy.minimum_tee_tcb_svn), report.tee_tcb_svn
    enough = all(have >= want for have, want in zip(got, least, strict=True))
    findings.check("TEE TCB SVN", f"each at least {least.hex()}", got.hex(), enough)
    if report.mrservicetd is None:
        _absent_service_td(examination)
    else:
        findings.accepted("MRSERVICETD", policy.mrservicetd, report.mrservicetd.hex())


def _number(field: bytes) -> int:
    return int.from_bytes(field, "little")


def _absent_service_td(examination: Examination) -> None:
    findings, rule = examination.findings, examination.policy.mrservicetd
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
