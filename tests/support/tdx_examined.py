"""A fake Intel's quotes under a policy that accepts them, and which checks fail."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import replace

from sevfork.attest.evidence import Evidence
from sevfork.technology import Technology
from tests.support.fake_intel import (
    NOW,
    FakeIntel,
)
from tests.support.tdx_samples import rejected, tdx_policy

INTEL = FakeIntel()
INTEL_5 = FakeIntel(version=5, body_type=3)
POLICY = tdx_policy(INTEL.root_sha256)
DAY = timedelta(days=1)


def evidence(intel: FakeIntel, **collateral: Any) -> Evidence:
    """Evidence of an Intel, with fields of its collateral replaced."""
    changed = replace(intel.collateral(), **collateral)
    return Evidence(Technology.TDX, intel.quote(), changed.encode())


def failures(intel: FakeIntel, at: datetime = NOW, **policy: Any) -> dict[str, str]:
    return rejected(intel.evidence(), tdx_policy(INTEL.root_sha256, **policy), at)
