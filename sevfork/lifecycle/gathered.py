"""What a host has to hand a guest for its evidence. Who gets it is injected (``Job.gather``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sevfork.attest.evidence import Evidence
from sevfork.errors import SevforkError


@dataclass(frozen=True)
class Item:
    """One thing that a vendor publishes; ``until``: when it has to be got again, None for never."""

    what: str
    path: str
    until: datetime | None


@dataclass(frozen=True)
class Gathered:
    """The evidence with what is at hand for it, and what is not, or is not current any more.

    ``kept_at``: where it was put down for ``sevfork certs fetch``, if anything is missing.
    """

    evidence: Evidence
    items: tuple[Item, ...] = ()
    missing: tuple[SevforkError, ...] = ()
    kept_at: str | None = None


Gather = Callable[[Evidence], Gathered]


def as_it_is(evidence: Evidence) -> Gathered:
    """Where nobody is asked."""
    return Gathered(evidence)
