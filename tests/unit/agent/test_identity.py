"""Who a VM says it is: what its measured policy makes it ask of its peers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from sevfork.agent.evidence.endorsed import Shelf
from sevfork.agent.identity import PolicyVerifier, establish
from sevfork.attest.evidence import Evidence
from sevfork.attest.guest_policy import GuestPolicy, guest_policy_toml
from sevfork.errors import AttestationFailed
from sevfork.handshake import InstanceKey
from sevfork.handshake.launch import LaunchConfig, Role, launch_config_hash
from sevfork.simulated.processor import SimulatedProcessor
from sevfork.technology import Technology
from tests.support import simulators

BUILT, NOW = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)
ROOT = LaunchConfig(Role.ROOT).encode()


class Provider:
    """The processor, having launched a root."""

    technology = Technology.SIMULATED

    def __init__(self, processor: SimulatedProcessor) -> None:
        self._processor = processor

    def evidence(self, report_data: bytes) -> Evidence:
        signed = launch_config_hash(Technology.SIMULATED, ROOT)
        return self._processor.report(b"m" * 48, signed, b"i" * 32, report_data)


@pytest.fixture
def processor() -> SimulatedProcessor:
    return simulators.processor()


@pytest.fixture
def policy(processor: SimulatedProcessor) -> GuestPolicy:
    roots = [processor.root_fingerprint]
    text = guest_policy_toml(Technology.SIMULATED, "anyone", roots, BUILT)
    return GuestPolicy.decode(text.encode())


def test_the_same_chip_means_the_chip_of_this_very_vm(
    processor: SimulatedProcessor, policy: GuestPolicy
) -> None:
    assert policy.chip == "same"
    verifier = PolicyVerifier(policy, Shelf(Technology.SIMULATED), lambda: NOW)
    own = establish(ROOT, Provider(processor), verifier, InstanceKey()).launch
    assert own.expect(bytes(64), ROOT).chip_id == processor.chip_id


def test_any_chip_asks_for_none(processor: SimulatedProcessor, policy: GuestPolicy) -> None:
    verifier = PolicyVerifier(replace(policy, chip="any"), Shelf(Technology.SIMULATED), lambda: NOW)
    own = establish(ROOT, Provider(processor), verifier, InstanceKey()).launch
    assert own.expect(bytes(64), ROOT).chip_id is None


def test_a_launch_configuration_that_was_not_launched_is_refused(
    processor: SimulatedProcessor, policy: GuestPolicy
) -> None:
    other = LaunchConfig(Role.CHILD, None, b"\x05" * 48).encode()
    with pytest.raises(AttestationFailed, match="launch configuration"):
        establish(
            other,
            Provider(processor),
            PolicyVerifier(policy, Shelf(Technology.SIMULATED), lambda: NOW),
            InstanceKey(),
        )
