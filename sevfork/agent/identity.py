"""Who this VM is: its instance key, its launch configuration, and the report that proves both."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec import Struct

from sevfork.agent.evidence.endorsed import Shelf
from sevfork.agent.evidence.provider import EvidenceProvider
from sevfork.attest.evidence import Evidence
from sevfork.attest.guest_policy import GuestPolicy
from sevfork.attest.verdict import EvidenceRejected, Verdict, VerifiedReport
from sevfork.attest.verify import Expected, verify
from sevfork.handshake import InstanceKey, OwnLaunch, attest_report_data
from sevfork.handshake.launch import LaunchConfig, launch_config_hash

Clock = Callable[[], datetime]
_NONCE_SIZE = 32
# Checks that fail where what AMD or Intel publish is absent, or is not what they publish now.
_PUBLISHED = (
    "certificates",
    "collateral",
    "revocation list",
    "validity of the",
    "number of the",
    "TCB evaluation number",
)
_HINT = "the host brings what AMD and Intel publish: 'sevfork certs fetch VM' gets it"


def host_clock() -> datetime:
    """The wall clock, which the host sets: what it decides is listed as not trusted."""
    return datetime.now(UTC)


class PolicyVerifier(Struct, frozen=True):
    """Checks evidence, a peer's or this VM's own, under the measured policy.

    It has to pass with what it came with, where that is enough, and with what the host has handed
    this VM, where that is newer: so nothing that is handed over makes a refusal of lists and
    documents that are there a pass.
    """

    policy: GuestPolicy
    shelf: Shelf
    clock: Clock = host_clock

    def __call__(self, evidence: bytes, expected: Expected) -> VerifiedReport:
        complete = self.shelf.filled(Evidence.decode(evidence))
        report = self._verify(complete, expected)
        renewed = self.shelf.renewed(complete)
        return report if renewed == complete else self._verify(renewed, expected)

    def _verify(self, evidence: Evidence, expected: Expected) -> VerifiedReport:
        try:
            return verify(evidence, self.policy.attest, expected, self.clock())
        except EvidenceRejected as exc:
            if not _lacks_what_is_published(exc.verdict):
                raise
            raise EvidenceRejected(exc.verdict, hint=_HINT) from exc


def _lacks_what_is_published(verdict: Verdict) -> bool:
    return any(check.name.startswith(_PUBLISHED) for check in verdict.failures)


class Identity(Struct, frozen=True):
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
