"""What the guest was built with: read once, from the root file system that was measured."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from sevfork.agent.image_technology import TECHNOLOGY
from sevfork.agent.workload import CONTAINER_ROOT, GUEST_PATH, Workload
from sevfork.attest.guest_policy import POLICY_PATH, GuestPolicy
from sevfork.technology import Technology


class Measured(Struct, frozen=True):
    """Technology, policy and workload; none of them can be chosen at run time.

    ``container_root``: what the workload's container is made of. The guest's own root, where the
    workload is Debian packages in it; a directory of its own, where it is a container image.
    """

    technology: Technology
    policy: GuestPolicy
    workload: Workload
    container_root: Path = Path("/")


def read_measured() -> Measured:
    """Raise UsageError when the image was built with a file that does not parse."""
    technology = Technology(TECHNOLOGY)
    return Measured(
        technology,
        GuestPolicy.decode(Path(POLICY_PATH).read_bytes()),
        Workload.load(Path(GUEST_PATH).read_bytes()).resolved(technology),
        _container_root(),
    )


def _container_root() -> Path:
    """By what is in the measured root file system, which does not change."""
    directory = Path(CONTAINER_ROOT)
    return directory if directory.is_dir() else Path("/")
