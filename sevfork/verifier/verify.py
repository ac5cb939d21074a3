"""``sevfork verify``: evidence from a file, judged on any machine, with no VM and no libvirt."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from sevfork.attest.evidence import Evidence
from sevfork.attest.policy import Policy
from sevfork.attest.verdict import Verdict
from sevfork.attest.verify import Expected, judge
from sevfork.errors import InsecureRefused, UsageError
from sevfork.handshake.launch import launch_config_hash
from sevfork.technology import Technology


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
    launch_config: bytes | None = None,
    allow_simulated: bool = False,
) -> Verdict:
    """Judge; ``launch_config`` is compared where ``report_data`` is.

    Raises InsecureRefused for simulated evidence that was not asked for.
    """
    if evidence.technology is Technology.SIMULATED and not allow_simulated:
        raise InsecureRefused(
            "this evidence is simulated: it shows nothing about confidentiality",
            hint="add --allow-simulated to check it all the same",
        )
    signed = launch_config and launch_config_hash(evidence.technology, launch_config)
    return judge(evidence, policy, Expected(report_data, signed) if report_data else None, at)
