"""What can become of a parent's device in its child."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Plan(Enum):
    """REFUSE is none of a child's: a VM with such a device is not forked."""

    CLONE = "clone"
    LEAVE_OUT = "leave out"
    SHARE = "share"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Verdict:
    """A plan, and the reason in words that follow the device's name."""

    plan: Plan
    reason: str


@dataclass(frozen=True)
class PlannedDevice:
    """One device of the parent; ``kind`` is libvirt's element, ``name`` tells it from its like."""

    kind: str
    name: str
    plan: Plan
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}'" if self.name else self.kind


def clone(reason: str) -> Verdict:
    return Verdict(Plan.CLONE, reason)


def leave_out(reason: str) -> Verdict:
    return Verdict(Plan.LEAVE_OUT, reason)


def share(reason: str) -> Verdict:
    return Verdict(Plan.SHARE, reason)


def refuse(reason: str) -> Verdict:
    return Verdict(Plan.REFUSE, reason)
