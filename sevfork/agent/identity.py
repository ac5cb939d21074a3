"""Who this VM is: its instance key, its launch configuration, and the report that proves both."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sevfork.agent.evidence.provider import EvidenceProvider
from sevfork.attest.evidence import Evidence
from sevfork.attest.guest_policy import GuestPolicy
from sevfork.attest.verdict import VerifiedReport
from sevfork.attest.verify import Expected, verify
from sevfork.handshake import InstanceKey, OwnLaunch, attest_report_data
from sevfork.handshake.launch import LaunchConfig, launch_config_hash

Clock = Callable[[], datetime]
_NONCE_SIZE = 32


def host_clock() -> datetime:
    """The wall clock, which the host sets: what it decides is listed as not trusted."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class PolicyVerifier:
    """Checks a peer's evidence under the measured policy."""

    policy: GuestPolicy
    clock: Clock = host_clock

    def __call__(self, evidence: bytes, expected: Expected) -> VerifiedReport:
        return verify(Evidence.decode(evidence), self.policy.attest, expected, self.clock())


@dataclass(frozen=True)
class Identity:
    """A launch configuration that the hardware has signed, and the launch it belongs to."""

    config: LaunchConfig
    launch: OwnLaunch


def establish(
    launch_config: bytes, provider: EvidenceProvider, verifier: PolicyVerifier, key: InstanceKey
) -> Identity:
    """Take a report of this very VM and refuse a launch configuration that does not match it.

    Raises AttestationFailed, also when the guest's own evidence does not pass its own policy: such
    a guest could never be recognised by a peer.
    """
    config = LaunchConfig.decode(launch_config)
    report_data = attest_report_data(secrets.token_bytes(_NONCE_SIZE), key.public)
    expected = Expected(report_data, launch_config_hash(provider.technology, launch_config))
    report = verifier(provider.evidence(report_data).encode(), expected)
    policy = verifier.policy
    same_chip = policy.chip == "same"
    return Identity(config, OwnLaunch.of(report, launch_config, policy.digest, same_chip=same_chip))
