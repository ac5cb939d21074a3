"""A TDX policy that takes the launch of one VM."""

from __future__ import annotations

from pathlib import Path

from scripts.hardware.pinning import with_registers
from sevfork.attest.policy import Policy
from sevfork.attest.tdx.quote import Quote
from sevfork.technology import Technology
from sevfork.verifier.policies import verifiers_policy
from tests.support.fake_intel import FakeIntel


def test_the_parents_registers_are_all_that_the_policy_takes(tmp_path: Path) -> None:
    evidence = FakeIntel().evidence()
    (tmp_path / "parent.evidence").write_bytes(evidence.encode())
    text = with_registers(verifiers_policy([Technology.TDX], ()), tmp_path)
    policy, report = Policy.decode(text.encode()).tdx, Quote.decode(evidence.report).td_report
    assert policy is not None
    assert policy.mrtd == (report.mrtd.hex(),)
    assert policy.rtmr1 == (report.rtmr1.hex(),)
    assert policy.rtmr2 == (report.rtmr2.hex(),)
