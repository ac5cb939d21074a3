"""How long each step of something took, in words for the log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StepTimes:
    """``str`` of it: 'files 41 ms, runc 1320 ms'."""

    def __init__(self) -> None:
        self._taken: list[str] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what is done inside, unless it fails."""
        began = time.monotonic()
        yield
        self._taken.append(f"{name} {(time.monotonic() - began) * 1000:.0f} ms")

    def __str__(self) -> str:
        return ", ".join(self._taken)
