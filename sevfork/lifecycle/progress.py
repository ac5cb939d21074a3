"""How a use case says how far it is, to whoever shows it."""

from __future__ import annotations

import logging
from typing import Protocol

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """``who`` is a VM's name, ``phase`` a few words; done and total in bytes, total 0 if unknown.

    May be called from any thread.
    """

    def __call__(self, who: str, phase: str, done: int = 0, total: int = 0) -> None: ...


def unwatched(who: str, phase: str, done: int = 0, total: int = 0) -> None:
    """Nobody looks."""


def logged(watch: Watcher) -> Watcher:
    """The same watcher; each phase that a VM enters is a line of the log (``--debug``)."""
    phases: dict[str, str] = {}

    def note(who: str, phase: str, done: int = 0, total: int = 0) -> None:
        if phases.get(who) != phase:
            phases[who] = phase
            log.debug("%s, phase: %s", who, phase)
        watch(who, phase, done, total)

    return note
