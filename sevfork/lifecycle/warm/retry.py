"""What a process that runs on does about a thing that fails: later each time, and told once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sevfork.deadline import Deadline
from sevfork.errors import SevforkError

_FIRST_S = 5.0
_LONGEST_S = 80.0


@dataclass
class Retry:
    """When one kind of thing is tried again. ``note`` hears of each different failure once."""

    note: Callable[[str], None]
    _pause_s: float = 0.0
    _told: str = ""
    _due: Deadline = field(default_factory=lambda: Deadline.after(0))

    @property
    def is_waiting(self) -> bool:
        return not self._due.passed

    def failed(self, error: SevforkError) -> float:
        """The seconds until the next attempt: twice as many as after the last failure."""
        if error.message != self._told:
            self._told, self._pause_s = error.message, 0.0
            self.note(f"warning: {error.message}; trying again, later each time")
        self._pause_s = min(max(2 * self._pause_s, _FIRST_S), _LONGEST_S)
        self._due = Deadline.after(self._pause_s)
        return self._pause_s

    def worked(self) -> None:
        self._pause_s, self._told, self._due = 0.0, "", Deadline.after(0)
