"""The same evidence before another verifier: dcap-qvl, which shares no code with this project.

It knows no policy, so what is compared is what both judge: signatures, chains, revocation, time,
and the TCB status that comes out.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sevfork.attest.evidence import Evidence
from sevfork.attest.tdx.tcb import TcbStatus
from sevfork.attest.verdict import Verdict
from sevfork.attest.verify import judge
from sevfork.technology import Technology
from tests.support.fake_intel import NOW, FakeIntel, platform_level
from tests.support.genuine import sample
from tests.support.tdx_samples import tdx_policy

dcap_qvl = pytest.importorskip("dcap_qvl")

INTEL = FakeIntel()
_DAY = timedelta(days=1)
# All that both accept; dcap-qvl refuses a revoked TCB and leaves the rest to its caller.
_STATUSES = tuple(status.value for status in TcbStatus if status is not TcbStatus.REVOKED)


def their_status(evidence: Evidence, at: datetime, root: bytes | None = None) -> str | None:
    """dcap-qvl's TCB status, or None where it rejects."""
    known = json.loads(evidence.certificates)
    known.setdefault("pck_crl_issuer_chain", "")
    known.pop("pck_certificate_chain", None)
    collateral = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(known))
    seconds = int(at.timestamp())
    try:
        if root is None:
            return str(dcap_qvl.verify(evidence.report, collateral, seconds).status)
        return str(dcap_qvl.verify_with_root_ca(evidence.report, collateral, root, seconds).status)
    except ValueError:
        return None


def our_status(verdict: Verdict) -> str | None:
    """Our TCB status, or None where a check failed."""
    status = [check.got for check in verdict.checks if check.name == "TCB status"]
    return status[0] if verdict.passed else None


def ours(evidence: Evidence, at: datetime, **policy: Any) -> str | None:
    rules = tdx_policy(tcb_statuses=_STATUSES, **policy)
    return our_status(judge(evidence, rules, None, at))


def of_intel(intel: FakeIntel) -> tuple[str | None, str | None]:
    evidence = intel.evidence()
    policy = tdx_policy(intel.root_sha256, tcb_statuses=_STATUSES)
    return our_status(judge(evidence, policy, None, NOW)), their_status(
        evidence, NOW, intel.root_der
    )


@pytest.mark.parametrize(
    ("at", "status"),
    [("2025-06-20", "UpToDate"), ("2025-08-01", None), ("2025-06-01", None)],
)
def test_both_agree_on_the_genuine_quote(at: str, status: str | None) -> None:
    when = datetime.fromisoformat(at).replace(tzinfo=UTC)
    evidence = Evidence(
        Technology.TDX,
        sample("dcap-qvl/tdx_quote"),
        sample("dcap-qvl/tdx_quote_collateral.json"),
    )
    assert (ours(evidence, when), their_status(evidence, when)) == (status, status)


@pytest.mark.parametrize("offset", [48, 200, 640, 720, 800, 1200, 1260])
def test_both_reject_a_flipped_bit(offset: int) -> None:
    when = datetime(2025, 6, 20, tzinfo=UTC)
    report = bytearray(sample("dcap-qvl/tdx_quote"))
    report[offset] ^= 4
    collateral = sample("dcap-qvl/tdx_quote_collateral.json")
    evidence = Evidence(Technology.TDX, bytes(report), collateral)
    assert (ours(evidence, when), their_status(evidence, when)) == (None, None)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, "UpToDate"),
        ({"version": 5, "body_type": 2}, "UpToDate"),
        ({"version": 5, "body_type": 3}, "UpToDate"),
        ({"trailing": b"padding"}, "UpToDate"),
        ({"pce_svn": 5}, "OutOfDate"),
        ({"qe_svn": 3}, "OutOfDate"),
        ({"td": {"tee_tcb_svn": bytes([5, 1, 2]) + bytes(13)}}, "UpToDate"),
        ({"td": {"tee_tcb_svn": bytes([5, 0, 2]) + bytes(13)}}, "UpToDate"),
        ({"tcb": {"tcbLevels": [platform_level("SWHardeningNeeded")]}}, "SWHardeningNeeded"),
        (
            {"tcb": {"tcbLevels": [platform_level("ConfigurationAndSWHardeningNeeded")]}},
            "ConfigurationAndSWHardeningNeeded",
        ),
    ],
)
def test_both_find_the_same_tcb_status(change: dict[str, Any], status: str) -> None:
    assert of_intel(INTEL.but(**change)) == (status, status)


# Those that Intel's documents may hold; what is advised to a running TD is made of them.
_LISTED = [status for status in TcbStatus if "relaunch" not in status.needs]


@pytest.mark.parametrize("qe_svn", [4, 3], ids=["good-qe", "old-qe"])
@pytest.mark.parametrize("launch", _LISTED, ids=lambda status: status.value)
def test_both_find_the_same_status_of_a_td_whose_platform_was_updated(
    launch: TcbStatus, qe_svn: int
) -> None:
    td = {"tee_tcb_svn": bytes([6, 1, 2]) + bytes(13), "tee_tcb_svn2": bytes([6, 1, 3]) + bytes(13)}
    for now in _LISTED:
        levels = [
            platform_level(now.value, tdx=(5, 0, 3)),
            platform_level(launch.value, tdx=(5, 0, 2)),
        ]
        mine, theirs = of_intel(
            INTEL.but(version=5, body_type=3, td=td, tcb={"tcbLevels": levels}, qe_svn=qe_svn)
        )
        assert mine == theirs, f"at launch {launch.value}, now {now.value}"


@pytest.mark.parametrize(
    "change",
    [
        {"bound_key": "another"},
        {"qe_prod_id": 1},
        {"qe_attributes": bytes.fromhex("1700000000000000e700000000000000")},
        {"qe": {"id": "QE"}},
        {"qe": {"mrsigner": "0b" * 32}},
        {"tcb": {"id": "SGX"}},
        {"tcb": {"fmspc": "50806F000000"}},
        {"tcb": {"nextUpdate": "2026-02-28T00:00:00Z"}},
        {"tcb": {"issueDate": "2026-03-02T00:00:00Z"}},
        {"tcb": {"tcbLevels": []}},
        {"tcb": {"tcbLevels": [platform_level("Revoked")]}},
        {"revoked_by_ca": (77,)},
        {"revoked_by_root": (78,)},
        {"revoked_by_root": (79,)},
        {"svns": (2,) * 15 + (1,)},
        {"pce_svn": 4},
        {"td": {"tee_tcb_svn": bytes([6, 2, 3]) + bytes(13)}},
        {"td": {"tee_tcb_svn": bytes([1, 1, 3]) + bytes(13)}},
        {"td": {"mrsignerseam": b"\x01" * 48}},
        {"td": {"seam_attributes": b"\x01" + bytes(7)}},
        {"td": {"td_attributes": b"\x01\x00\x00\x10" + bytes(4)}},
        {"td": {"td_attributes": b"\x00\x00\x00\x30" + bytes(4)}},
        {"pck": replace(INTEL.pck, end=NOW - _DAY)},
        {"pck": replace(INTEL.pck, start=NOW + _DAY)},
        {"platform_ca": replace(INTEL.platform_ca, ca=False)},
        {"signer": replace(INTEL.signer, end=NOW - _DAY)},
    ],
    ids=str,
)
def test_both_reject(change: dict[str, Any]) -> None:
    assert of_intel(INTEL.but(**change)) == (None, None)


def test_both_reject_the_collateral_of_another_root() -> None:
    evidence = INTEL.evidence()
    assert our_status(judge(evidence, tdx_policy(), None, NOW)) is None
    assert their_status(evidence, NOW) is None
