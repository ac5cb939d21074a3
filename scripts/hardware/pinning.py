"""A policy that takes one launch, for a technology whose launch no file's digest foretells.

sevfork cannot compute a TD's registers from an image yet, and whoever adopts one has to list them.
So this takes them from the evidence of the VM itself, which an owner must not do: it tries the
machinery, and shows nothing about the image.
"""

from __future__ import annotations

import re
from pathlib import Path

from sevfork.attest.evidence import Evidence
from sevfork.attest.tdx.quote import Quote

_REGISTERS = ("mrtd", "rtmr1", "rtmr2")


def with_registers(policy: str, work: Path) -> str:
    """The policy, accepting nothing but the registers in the parent's evidence."""
    evidence = Evidence.decode((work / "parent.evidence").read_bytes())
    report = Quote.decode(evidence.report).td_report
    for name in _REGISTERS:
        value = f'{name} = ["{getattr(report, name).hex()}"]'
        policy = re.sub(rf'^{name} = "any"$', value, policy, flags=re.MULTILINE)
    return policy
