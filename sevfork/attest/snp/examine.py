"""SNP evidence examined: who signed it, and every field against the policy.

The steps are those of ``docs/attestation.md``. The simulated secure processor is the same code:
another root, another product name, ``Technology.SIMULATED``.
"""

from __future__ import annotations

from datetime import datetime

from sevfork.attest.bits import SNP_POLICY_BITS, bit_names
from sevfork.attest.evidence import Evidence
from sevfork.attest.policy import Policy
from sevfork.attest.snp.guest import check_guest, check_measured, check_platform, policy_bits
from sevfork.attest.snp.report import SnpReport
from sevfork.attest.snp.signer import check_signer
from sevfork.attest.verdict import Claims, Findings, LaunchIdentity
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology


def examine(evidence: Evidence, policy: Policy, at: datetime, findings: Findings) -> Claims:
    """Note every check of an SNP report; raise AttestationFailed if it cannot be read at all."""
    if policy.snp is None:
        raise AttestationFailed("the policy has no section 'snp'")
    # (1) Take the report apart. Its fields are claims of whoever sent it.
    report = SnpReport.decode(evidence.report)
    _facts(report, findings)
    # (2) to (7) Who signed it, for which chip and firmware.
    check_signer(evidence, report, policy, at, findings)
    # (8) and (9) What it says, against the policy.
    check_guest(report, policy.snp, findings)
    check_platform(report, policy.snp, findings)
    check_measured(report, policy.snp, findings)
    return _claims(report, evidence.technology)


def _claims(report: SnpReport, technology: Technology) -> Claims:
    parts = (
        ("measurement", report.measurement),
        ("policy", report.policy.to_bytes(8, "little")),
        ("id key", report.id_key_digest),
        ("author key", report.author_key_digest),
    )
    return Claims(
        technology=technology,
        report_data=report.report_data,
        launch_config_hash=report.host_data,
        launch_identity=LaunchIdentity(technology, parts),
        report_id=report.report_id,
        chip_id=report.chip_id if any(report.chip_id) else None,
    )


def _facts(report: SnpReport, findings: Findings) -> None:
    bits = bit_names(policy_bits(report), SNP_POLICY_BITS)
    findings.fact("report version", str(report.version))
    findings.fact("processor", str(report.cpuid or "not in a report of version 2"))
    findings.fact("signing key", report.signing_key.label)
    findings.fact("guest policy", f"{report.policy:#x} ({', '.join(bits) or 'no bits'})")
    findings.fact("measurement", report.measurement.hex())
    findings.fact("host data", report.host_data.hex())
    findings.fact("report data", report.report_data.hex())
    findings.fact("report id", report.report_id.hex())
    findings.fact("chip id", report.chip_id.hex())
    findings.fact("firmware", f"{report.current_firmware}, committed {report.committed_firmware}")
