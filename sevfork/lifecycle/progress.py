"""How a use case says how far it is, to whoever shows it."""

from __future__ import annotations

from typing import Protocol


class Watcher(Protocol):
    """``who`` is a VM's name, ``phase`` a few words; done and total in bytes, total 0 if unknown.

    May be called from any thread.
    """

    def __call__(self, who: str, phase: str, done: int = 0, total: int = 0) -> None: ...


def unwatched(who: str, phase: str, done: int = 0, total: int = 0) -> None:
    """Nobody looks."""
