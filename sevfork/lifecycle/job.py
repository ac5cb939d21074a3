"""One run of a use case: on which hypervisor, until when, and who looks on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from sevfork.deadline import Deadline
from sevfork.host.agent_client import Cancelled
from sevfork.host.hypervisor import Hypervisor
from sevfork.lifecycle.gathered import Gather, as_it_is
from sevfork.lifecycle.progress import Watcher, unwatched


@dataclass(frozen=True)
class Job:
    """What each step of a use case is given. ``cancelled`` ends every wait of it at once.

    ``gather`` gets what a guest's evidence is checked by.
    """

    hypervisor: Hypervisor
    deadline: Deadline
    watch: Watcher = unwatched
    cancelled: threading.Event = field(default_factory=threading.Event)
    gather: Gather = as_it_is
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def poll(self, every_s: float, message: str) -> Iterator[None]:
        """``Deadline.poll``, which being cancelled ends too."""
        return self.deadline.poll(every_s, message, sleep=self._sleep)

    def check_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled("interrupted")

    def _sleep(self, seconds: float) -> None:
        self.cancelled.wait(seconds)
        self.check_cancelled()
