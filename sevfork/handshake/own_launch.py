"""What a guest knows of itself before it speaks to another: its own, verified, report."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from msgspec import Struct

from sevfork.attest.verdict import LaunchIdentity, VerifiedReport
from sevfork.attest.verify import Expected
from sevfork.errors import AttestationFailed
from sevfork.handshake.launch import LaunchConfig, launch_config_hash
from sevfork.technology import Technology

Verifier = Callable[[bytes, Expected], VerifiedReport]
"""Checks encoded evidence under the guest's policy; raises AttestationFailed."""


class OwnLaunch(Struct, frozen=True):
    """How this guest was launched. ``peer_chip_id`` is the chip that peers must be on, if any."""

    technology: Technology
    launch_config: bytes
    launch_identity: LaunchIdentity
    report_id: bytes | None
    peer_chip_id: bytes | None
    policy_digest: bytes

    @classmethod
    def of(
        cls, report: VerifiedReport, launch_config: bytes, policy_digest: bytes, *, same_chip: bool
    ) -> OwnLaunch:
        """From the report that the guest took of itself at boot.

        Raises AttestationFailed if the host handed over another launch configuration than the one
        that the hardware has signed, or if the report lacks what peers have to be compared with.
        """
        signed = launch_config_hash(report.technology, launch_config)
        if not hmac.compare_digest(signed, report.launch_config_hash):
            raise AttestationFailed("the launch configuration is not the one that was launched")
        if same_chip and not any(report.chip_id or b""):
            raise AttestationFailed("the policy asks for one chip, and the report names none")
        if report.report_id is None and report.technology is not Technology.TDX:
            raise AttestationFailed("the report has no report id to tell instances apart by")
        chip = report.chip_id if same_chip else None
        identity, report_id = report.launch_identity, report.report_id
        return cls(report.technology, launch_config, identity, report_id, chip, policy_digest)

    @property
    def config(self) -> LaunchConfig:
        return LaunchConfig.decode(self.launch_config)

    def expect(self, report_data: bytes, peer_launch_config: bytes) -> Expected:
        """What the evidence of a peer must show: the same launch, but not this very instance."""
        return Expected(
            report_data=report_data,
            launch_config_hash=launch_config_hash(self.technology, peer_launch_config),
            launch_identity=self.launch_identity,
            other_than_report_id=self.report_id,
            chip_id=self.peer_chip_id,
        )
