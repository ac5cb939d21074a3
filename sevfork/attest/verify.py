"""The one entry point of verification: evidence in, a VerifiedReport or an error out."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec import Struct

from sevfork.attest.evidence import Evidence
from sevfork.attest.policy import Policy
from sevfork.attest.snp import examine as examine_snp
from sevfork.attest.tdx import examine as examine_tdx
from sevfork.attest.verdict import (
    Claims,
    Findings,
    LaunchIdentity,
    Verdict,
    VerifiedReport,
    _verified,
)
from sevfork.errors import AttestationFailed, UsageError
from sevfork.technology import Technology

Examiner = Callable[[Evidence, Policy, datetime, Findings], Claims]
_EXAMINERS: dict[Technology, Examiner] = {
    Technology.SIMULATED: examine_snp.examine,
    Technology.SEV_SNP: examine_snp.examine,
    Technology.TDX: examine_tdx.examine,
}


class Expected(Struct, frozen=True):
    """What the verifier itself knows that the report must say.

    ``report_data`` (64 bytes) is what makes a report fresh and bound, so there is always one.
    What is None is not compared, and the verdict says so.
    """

    report_data: bytes
    launch_config_hash: bytes | None = None
    launch_identity: LaunchIdentity | None = None
    other_than_report_id: bytes | None = None
    chip_id: bytes | None = None


def verify(evidence: Evidence, policy: Policy, expected: Expected, at: datetime) -> VerifiedReport:
    """Check everything; raise EvidenceRejected, an AttestationFailed with a verdict, otherwise.

    ``at`` is the time that certificates must be valid at, with a time zone.
    """
    verdict, claims = _judge(evidence, policy, expected, at)
    return _verified(claims, verdict)


def judge(evidence: Evidence, policy: Policy, expected: Expected | None, at: datetime) -> Verdict:
    """The verdict alone, good or bad, to show. It releases nothing: ``expected`` may be None."""
    return _judge(evidence, policy, expected, at)[0]


def _judge(
    evidence: Evidence, policy: Policy, expected: Expected | None, at: datetime
) -> tuple[Verdict, Claims | None]:
    if at.tzinfo is None:
        raise UsageError(f"the time '{at}' has no time zone")
    findings, claims = Findings(), None
    at = at.astimezone(UTC)
    try:
        claims = _examined(evidence, policy, at, findings)
        _check_expected(claims, expected, findings)
    except AttestationFailed as exc:
        findings.check("evidence", "well formed", exc.message, passed=False)
    findings.unchecked("time not trusted: the clock is the word of whoever runs this machine")
    return findings.verdict(evidence.technology), claims


def _examined(
    evidence: Evidence, policy: Policy, at: datetime, findings: Findings
) -> Claims | None:
    technology = evidence.technology
    if not findings.accepted("technology", policy.technologies, technology.value):
        return None
    floor = policy.not_before
    findings.check("time", f"not before {floor:%Y-%m-%d}", f"{at:%Y-%m-%d}", at >= floor)
    return _EXAMINERS[technology](evidence, policy, at, findings)


def _check_expected(claims: Claims | None, expected: Expected | None, findings: Findings) -> None:
    if claims is None:
        return
    if expected is None:
        findings.unchecked("report data: none was expected, so nothing says that this is fresh")
        expected = Expected(claims.report_data)
    else:
        same = hmac.compare_digest(expected.report_data, claims.report_data)
        findings.check("report data", expected.report_data.hex(), claims.report_data.hex(), same)
    _check_launch(claims, expected, findings)
    _check_instance(claims, expected, findings)


def _check_launch(claims: Claims, expected: Expected, findings: Findings) -> None:
    if expected.launch_config_hash is None:
        findings.unchecked("launch configuration: none was expected")
    else:
        got = claims.launch_config_hash
        findings.equal("launch configuration", expected.launch_config_hash, got)
    if expected.launch_identity is None:
        findings.unchecked("launch identity: none was expected")
    else:
        differs = expected.launch_identity.differs_in(claims.launch_identity)
        got_text = f"another {', '.join(differs)}" if differs else "the same"
        findings.check("launch identity", "the same", got_text, not differs)


def _check_instance(claims: Claims, expected: Expected, findings: Findings) -> None:
    if expected.other_than_report_id is None:
        findings.unchecked("report id: there was none to differ from")
    else:
        other = claims.report_id not in (None, expected.other_than_report_id)
        got = claims.report_id.hex() if claims.report_id else "none"
        wanted = f"not {expected.other_than_report_id.hex()}"
        findings.check("report id", wanted, got, other)
    if expected.chip_id is None:
        findings.unchecked("same chip: none was expected")
    else:
        findings.equal("same chip", expected.chip_id, claims.chip_id or b"")
