"""A child's domain, made of its parent's live XML as ``virt-clone`` makes a clone's.

``devices`` has what becomes of each device and why, ``live`` takes out what libvirt adds to a guest
that runs, ``transform`` makes the child. Pure: XML in, XML out.
"""

from sevfork.domain.child.plans import Plan, PlannedDevice
from sevfork.domain.child.transform import (
    child_xml,
    links_to_plug,
    planned_devices,
    require_forkable,
    without_passwords,
)

__all__ = [
    "Plan",
    "PlannedDevice",
    "child_xml",
    "links_to_plug",
    "planned_devices",
    "require_forkable",
    "without_passwords",
]
