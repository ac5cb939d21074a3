"""What an SNP report says of its guest, against the policy: steps (8) and (9)."""

from __future__ import annotations

from sevfork.attest.bits import SNP_PLATFORM_BITS, SNP_POLICY_BITS, bit_names, check_bits
from sevfork.attest.policy import SnpPolicy, version
from sevfork.attest.snp.report import POLICY_MUST_BE_ONE, SnpReport
from sevfork.attest.verdict import Findings

_NO_MIGRATION_AGENT = b"\xff" * 32
_POLICY_ABI_MASK = 0xFFFF


def policy_bits(report: SnpReport) -> int:
    """The guest policy without the ABI version and the bit that is always one."""
    return report.policy & ~_POLICY_ABI_MASK & ~POLICY_MUST_BE_ONE


def check_guest(report: SnpReport, snp: SnpPolicy, findings: Findings) -> None:
    """(8) How the guest was launched, and from which privilege level the report was asked for."""
    findings.at_least("report version", snp.minimum_report_version, report.version)
    findings.accepted("signing key", snp.signing_keys, report.signing_key.label)
    masked = "masked: the firmware was told not to sign" if report.key_masked else "not masked"
    findings.check("chip key", "not masked", masked, not report.key_masked)
    findings.accepted("VMPL", tuple(map(str, snp.vmpl)), str(report.vmpl))
    bits = policy_bits(report)
    check_bits(findings, "guest policy", snp.guest_policy, bits, SNP_POLICY_BITS)
    abi, least_abi = report.policy_abi, version("minimum_abi", snp.minimum_abi, 2)
    got = f"{abi[0]}.{abi[1]}"
    findings.check("firmware ABI", f"at least {snp.minimum_abi}", got, abi >= least_abi)
    findings.at_least("guest SVN", snp.minimum_guest_svn, report.guest_svn)
    if "migration-agent" not in bit_names(bits, SNP_POLICY_BITS):
        findings.equal("migration agent's report id", _NO_MIGRATION_AGENT, report.report_id_ma)


def check_platform(report: SnpReport, snp: SnpPolicy, findings: Findings) -> None:
    check_bits(findings, "platform", snp.platform, report.platform_info, SNP_PLATFORM_BITS)
    if not snp.required_mitigations:
        findings.unchecked("mitigation vectors: the policy requires none")
        return
    for name, vector in (
        ("mitigations at launch", report.launch_mitigations),
        ("mitigations now", report.current_mitigations),
    ):
        got = f"{vector:#x}" if vector is not None else f"not in version {report.version}"
        missing = vector is None or snp.required_mitigations & ~vector
        findings.check(name, f"all of {snp.required_mitigations:#x}", got, not missing)


def check_measured(report: SnpReport, snp: SnpPolicy, findings: Findings) -> None:
    """(9) What was launched, as far as the policy names it."""
    findings.accepted("measurement", snp.measurements, report.measurement.hex())
    findings.accepted("host data", snp.host_data, report.host_data.hex())
    findings.accepted("family id", snp.family_ids, report.family_id.hex())
    findings.accepted("image id", snp.image_ids, report.image_id.hex())
    findings.accepted("id key", snp.id_keys, report.id_key_digest.hex())
    findings.accepted("author key", snp.author_keys, report.author_key_digest.hex())
