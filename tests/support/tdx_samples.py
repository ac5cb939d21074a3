"""What the TDX tests share: policies, verdicts."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec
import pytest

from sevfork.attest.bits import Bits
from sevfork.attest.defaults import policy_toml
from sevfork.attest.evidence import Evidence
from sevfork.attest.policy import Policy
from sevfork.attest.tdx.chain import INTEL_ROOT_SHA256
from sevfork.attest.verdict import EvidenceRejected, VerifiedReport
from sevfork.attest.verify import Expected, verify
from sevfork.technology import Technology

BUILT = datetime(2023, 1, 1, tzinfo=UTC)
GENUINE = (
    "dcap-qvl/tdx_quote",
    "trustee/tdx/tdx_quote_4.dat",
    "trustee/tdx/tdx_quote_5.dat",
    "go-tdx-guest/quote_v5_sample.dat",
)


@cache
def _strict_policy(root: str) -> Policy:
    return Policy.decode(policy_toml([Technology.TDX], [root], BUILT).encode())


def tdx_policy(root: str = INTEL_ROOT_SHA256, **changes: Any) -> Policy:
    """A policy for TDX alone that accepts what is right; ``changes`` are fields of its section."""
    policy = _strict_policy(root)
    assert policy.tdx is not None
    tdx = msgspec.structs.replace(policy.tdx, **changes)
    return msgspec.structs.replace(policy, tdx=tdx)


ANY_ATTRIBUTES = Bits(allowed="any", required=())


def accepted(
    evidence: Evidence, policy: Policy, at: datetime, report_data: bytes | None = None
) -> VerifiedReport:
    """Verify with the report data that the evidence has, unless another is given."""
    return verify(evidence, policy, _expected(evidence, report_data), at)


def rejected(
    evidence: Evidence, policy: Policy, at: datetime, report_data: bytes | None = None
) -> dict[str, str]:
    """The failed checks (name to what was got) of evidence that must not pass."""
    with pytest.raises(EvidenceRejected) as caught:
        verify(evidence, policy, _expected(evidence, report_data), at)
    return {check.name: check.got for check in caught.value.verdict.failures}


def _expected(evidence: Evidence, report_data: bytes | None) -> Expected:
    start = 48 + (6 if evidence.report[:1] == b"\x05" else 0) + 520
    return Expected(report_data or evidence.report[start : start + 64])
