"""``sevfork verify``: evidence from a file, judged on any machine, with no VM and no libvirt.

Files are the attacker's as much as evidence is: what cannot be read is rejected, and which of the
certificates in a folder are tried decides nothing, because the chain is checked afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TypeVar

from sevfork.attest.defaults import HARDWARE_ROOTS, NO_MINIMUM, SIMULATED_MINIMUM, policy_toml
from sevfork.attest.evidence import Evidence
from sevfork.attest.guest_policy import GuestPolicy
from sevfork.attest.policy import Policy
from sevfork.attest.snp.certificates import (
    Certificate,
    CertificateTable,
    RevocationList,
    split_pem,
)
from sevfork.attest.snp.report import REPORT_SIZE, SigningKey, SnpReport
from sevfork.attest.tdx.collateral import Collateral
from sevfork.attest.verdict import Check, EvidenceRejected, Verdict
from sevfork.attest.verify import Expected, judge
from sevfork.errors import AttestationFailed, InsecureRefused, UsageError
from sevfork.technology import Technology

EVIDENCE_LIMIT_BYTES = 1 << 20
CERTIFICATE_LIMIT_BYTES = 1 << 20
_EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)
_TDX_HEAD = re.compile(rb"[\x04\x05]\x00\x02\x00\x81\x00\x00\x00", re.DOTALL)
_SHOWN_CHARACTERS = 72
_T = TypeVar("_T")

EXPLANATION = """\
What a passing verdict does not prove:

- that the VM is in a good state now. A report speaks of what was launched and of the moment it was
  signed in, not of what has happened in the VM since.
- that it is fresh, unless --report-data was given and came from a nonce of yours.
- that what was launched is what you wanted, unless the policy lists its measurement (SNP) or its
  registers (TDX). 'any' under "not checked" means that a stranger's image passes as well.
- that the VM you talk to is the one that was attested. That takes a key of that VM in the report
  data, and a connection that uses it.
- that the host is honest. It can pause, restart or delete the VM, and it sets the VM's clock.
- that the clock used here is right: an expired certificate passes under a wrong one (--at).
- that nothing has been revoked, if no revocation list or collateral was at hand.
- that the hardware resists its owner. Side channels, bus interposers and extracted signing keys of
  old products are outside of what evidence shows; leave such products and chips out of the policy.
- anything at all, if it is simulated: the simulated secure processor's key lies on the host.
"""


def recognise(data: bytes) -> Evidence:
    """What evidence a file holds: sevfork's own, an SNP report or a TDX quote; raw or hexadecimal.

    An SNP report may have its certificate table behind it, as extended reports of other tools do.
    Raises AttestationFailed for anything else.
    """
    data = _unhex(data)
    if _TDX_HEAD.match(data):
        return Evidence(Technology.TDX, data, b"")
    if data[:1] == b"\1":
        return Evidence.decode(data)
    if len(data) >= REPORT_SIZE and data[0] in range(2, 6):
        return Evidence(Technology.SEV_SNP, data[:REPORT_SIZE], data[REPORT_SIZE:])
    raise AttestationFailed(
        f"{len(data)} bytes that are no evidence",
        hint="want an SNP report (1184 bytes), a TDX quote (v4, v5) or what 'sevfork attest' saved",
    )


def _unhex(data: bytes) -> bytes:
    text = b"".join(data.split()).removeprefix(b"0x")
    if len(text) % 2 == 0 and re.fullmatch(rb"[0-9A-Fa-f]+", text):
        return bytes.fromhex(text.decode("ascii"))
    return data


@dataclass
class Pool:
    """Certificates, revocation lists and collateral that were found in files, in no order."""

    certificates: list[Certificate] = field(default_factory=list)
    lists: list[tuple[RevocationList, bytes]] = field(default_factory=list)
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
        certificate = _readable(Certificate.parse, content)
        if certificate is not None:
            self.certificates.append(certificate)
            return
        revocations = _readable(RevocationList.parse, content)
        if revocations is not None:
            self.lists.append((revocations, content))

    def _add_collateral(self, content: bytes) -> None:
        if _readable(Collateral.decode, content) is not None:
            self.collateral.append(content)

    def complete(self, evidence: Evidence) -> Evidence:
        """The evidence with what it lacks; what came with it stays."""
        if evidence.technology is Technology.TDX:
            collateral = evidence.certificates or b"".join(self.collateral[:1])
            return replace(evidence, certificates=collateral)
        report = _readable(SnpReport.parse, evidence.report)
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
        leaves = [each for each in self.certificates if each.common_name == name]
        leaves.sort(key=lambda leaf: _likeness(leaf, report), reverse=True)
        return leaves[0].der if leaves else b""

    def _issuer_of(self, content: bytes) -> bytes:
        certificate = _readable(Certificate.parse, content)
        named = (
            each for each in self.certificates if certificate and each.subject == certificate.issuer
        )
        return next((each.der for each in named), b"")

    def _list_of(self, content: bytes) -> bytes:
        """The newest revocation list by the issuer's name."""
        issuer = _readable(Certificate.parse, content)
        mine = [pair for pair in self.lists if issuer and pair[0].issuer == issuer.subject]
        mine.sort(key=lambda pair: pair[0].last_update)
        return mine[-1][1] if mine else b""


def _likeness(leaf: Certificate, report: SnpReport) -> tuple[bool, bool]:
    chip = leaf.endorsement
    if chip is None:
        return False, False
    same_chip = (chip.hardware_id or b"").ljust(len(report.chip_id), b"\0") == report.chip_id
    return same_chip, chip.tcb.encode() == report.reported_tcb


def _readable(parse: Callable[[bytes], _T], content: bytes) -> _T | None:
    try:
        return parse(content)
    except AttestationFailed:
        return None


def default_policy(simulated_roots: Sequence[str] = ()) -> Policy:
    """What is judged by without ``--policy``: genuine parts, not debuggable, VMPL 0, any launch."""
    technologies = [Technology.SEV_SNP, Technology.TDX]
    minimum = dict(NO_MINIMUM)
    if simulated_roots:
        technologies.append(Technology.SIMULATED)
        minimum |= SIMULATED_MINIMUM
    roots = [root for each in HARDWARE_ROOTS.values() for root in each]
    text = policy_toml(
        technologies,
        [*roots, *simulated_roots],
        _EARLIEST,
        minimum_tcb=minimum,
        signing_keys=("vcek", "vlek"),
        collateral="optional",
    )
    return Policy.load(text.encode())


def load_policy(data: bytes) -> Policy:
    """An attestation policy, or the one inside a guest image's policy; UsageError otherwise."""
    if re.search(rb"(?m)^\[attest\]", data):
        return GuestPolicy.load(data).attest
    return Policy.load(data)


def parse_time(text: str) -> datetime:
    """ISO 8601; UTC where it names no zone. Raises UsageError."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as exc:
        raise UsageError(f"'{text}' is not a time such as 2026-03-01T12:00:00Z") from exc
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def parse_report_data(text: str) -> bytes:
    """64 bytes of hexadecimal. Raises UsageError."""
    if not re.fullmatch(r"[0-9A-Fa-f]{128}", text):
        raise UsageError(f"report data has 128 hexadecimal digits, not '{text}'")
    return bytes.fromhex(text)


def verdict_on(
    evidence: Evidence,
    policy: Policy,
    at: datetime,
    *,
    report_data: bytes | None = None,
    allow_simulated: bool = False,
) -> Verdict:
    """Judge; raises InsecureRefused for simulated evidence that was not asked for."""
    if evidence.technology is Technology.SIMULATED and not allow_simulated:
        raise InsecureRefused(
            "this evidence is simulated: it shows nothing about confidentiality",
            hint="add --allow-simulated to check it all the same",
        )
    return judge(evidence, policy, Expected(report_data) if report_data else None, at)


def document(verdict: Verdict) -> dict[str, object]:
    """The JSON form, without its schema number."""
    return {
        "verdict": "passed" if verdict.passed else "failed",
        "technology": verdict.technology.value,
        "confidential": verdict.technology.confidential,
        "checks": [
            {"name": c.name, "wanted": c.wanted, "got": c.got, "passed": c.passed}
            for c in verdict.checks
        ],
        "not_checked": list(verdict.not_checked),
        "facts": dict(verdict.facts),
    }


def text(verdict: Verdict) -> str:
    """For a person: what the evidence says, each check, what was left open, the verdict last."""
    failures, checks = len(verdict.failures), len(verdict.checks)
    end = (
        f"PASSED: all {checks} checks"
        if verdict.passed
        else f"FAILED: {failures} of {checks} checks"
    )
    parts = [
        [f"technology: {verdict.technology.label}"],
        ["what it says (not yet believed):", *(f"  {n}: {v}" for n, v in verdict.facts)],
        ["checks:", *(line for check in verdict.checks for line in _lines(check))],
        ["not checked:", *(f"  - {what}" for what in verdict.not_checked)],
        [end + ("" if verdict.technology.confidential else " (simulated, not confidential)")],
    ]
    return "\n\n".join("\n".join(part) for part in parts if len(part) > 1 or part[0][-1] != ":")


def rejection(verdict: Verdict) -> EvidenceRejected:
    """The error to end with, and what to do about it if certificates were all that was missing."""
    missing = any(check.name in ("certificates", "collateral") for check in verdict.failures)
    hint = "give certificate files with --certs, or get AMD's with --fetch" if missing else None
    return EvidenceRejected(verdict, hint=hint)


def _lines(check: Check) -> list[str]:
    if check.passed:
        least = f" ({check.wanted})" if check.wanted.startswith("at least") else ""
        return [f"  ok    {check.name}: {_short(check.got)}{least}"]
    return [
        f"  FAIL  {check.name}",
        f"          wanted {check.wanted}",
        f"          got    {check.got}",
    ]


def _short(value: str) -> str:
    """Long digests are cut where they are only said to be right; the facts have them whole."""
    if len(value) <= _SHOWN_CHARACTERS:
        return value
    return f"{value[: _SHOWN_CHARACTERS // 2]}...{value[-16:]}"
