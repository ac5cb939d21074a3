"""What ``sevfork doctor`` found: one thing looked at, how it stands, and what helps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Standing(Enum):
    OK = "ok"
    LIMITED = "limited"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """One thing looked at; ``remedy`` says how to get what is missing."""

    subject: str
    verdict: Standing
    found: str
    remedy: str | None = None
