"""What the guest was built with: read once, from the root file system that was measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sevfork.agent.built import TECHNOLOGY
from sevfork.agent.workload import GUEST_PATH, Workload
from sevfork.attest.guest_policy import GuestPolicy
from sevfork.technology import Technology

POLICY_PATH = Path("/etc/sevfork/policy.toml")


@dataclass(frozen=True)
class Measured:
    """Technology, policy and workload; none of them can be chosen at run time."""

    technology: Technology
    policy: GuestPolicy
    workload: Workload


def read_measured() -> Measured:
    """Raise UsageError when the image was built with a file that does not parse."""
    return Measured(
        Technology(TECHNOLOGY),
        GuestPolicy.decode(POLICY_PATH.read_bytes()),
        Workload.load(Path(GUEST_PATH).read_bytes()),
    )
