"""A verdict as text and as JSON, and what a passing one does not prove."""

from __future__ import annotations

from sevfork.attest.verdict import Check, EvidenceRejected, Verdict

_SHOWN_CHARACTERS = 72

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


def verdict_as_json(verdict: Verdict) -> dict[str, object]:
    """The JSON form, without its schema number."""
    return {
        "verdict": "passed" if verdict.passed else "failed",
        "technology": verdict.technology.value,
        "confidential": verdict.technology.confidential,
        "checks": [
            {"name": check.name, "wanted": check.wanted, "got": check.got, "passed": check.passed}
            for check in verdict.checks
        ],
        "not_checked": list(verdict.not_checked),
        "facts": dict(verdict.facts),
        "warnings": list(verdict.warnings),
    }


def verdict_as_lines(verdict: Verdict) -> list[str]:
    """For a person: what the evidence says, each check, what was left open, the verdict last."""
    failures, checks = len(verdict.failures), len(verdict.checks)
    end = (
        f"PASSED: all {checks} checks"
        if verdict.passed
        else f"FAILED: {failures} of {checks} checks"
    )
    parts = [
        [f"technology: {verdict.technology.label}"],
        [
            "what it says (not yet believed):",
            *(f"  {name}: {value}" for name, value in verdict.facts),
        ],
        ["checks:", *(line for check in verdict.checks for line in _lines(check))],
        ["not checked:", *(f"  - {what}" for what in verdict.not_checked)],
        ["warnings:", *(f"  ! {what}" for what in verdict.warnings)],
        [end + ("" if verdict.technology.confidential else " (simulated, not confidential)")],
    ]
    shown = [part for part in parts if len(part) > 1 or part[0][-1] != ":"]
    return [line for part in shown for line in ("", *part)][1:]


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
