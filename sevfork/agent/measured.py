"""What the guest was built with: read once, from the root file system that was measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sevfork.agent.image_technology import TECHNOLOGY
from sevfork.agent.workload import GUEST_PATH, Workload
from sevfork.attest.guest_policy import POLICY_PATH, GuestPolicy
from sevfork.technology import Technology


@dataclass(frozen=True)
class Measured:
    """Technology, policy and workload; none of them can be chosen at run time."""

    technology: Technology
    policy: GuestPolicy
    workload: Workload


def read_measured() -> Measured:
    """Raise UsageError when the image was built with a file that does not parse."""
    technology = Technology(TECHNOLOGY)
    return Measured(
        technology,
        GuestPolicy.decode(Path(POLICY_PATH).read_bytes()),
        Workload.load(Path(GUEST_PATH).read_bytes()).resolved(technology),
    )
