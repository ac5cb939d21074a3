"""A workload that has failed is started again: a few times, each later than the time before."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

from sevfork.agent.container.adopt import Ended
from sevfork.deadline import Deadline
from sevfork.errors import SevforkError

log = logging.getLogger(__name__)

MOST = 5
_FIRST_DELAY_S, _LONGEST_DELAY_S = 1.0, 60.0
# A workload that has run for so long after a restart has got over what had made it fail.
_PROVEN_S = 300.0
_LOOK_S = 0.5


class Restartable(Protocol):
    """The container of a workload that was started, or restored."""

    @property
    def is_running(self) -> bool: ...

    def ended(self) -> Ended: ...

    def restart(self) -> None: ...

    def wait_ready(self) -> None: ...


class Restarts:
    """Of one workload. ``around`` is entered as one begins, and left when it answers again."""

    def __init__(
        self,
        workload: Restartable,
        around: Callable[[bool], None],
        tend: Callable[[], None] = lambda: None,
    ) -> None:
        """``tend`` reaps what ran beside the workload: before that, nobody knows how it ended."""
        self._workload, self._around, self._tend = workload, around, tend
        self._proven = Deadline.after(0)
        self._wanted = False
        self._count = 0

    def watch(self) -> None:
        """From now on, on a thread of its own."""
        self._wanted = True
        threading.Thread(target=self._watch, name="restarts", daemon=True).start()

    def refrain(self) -> None:
        """It is to end: not again."""
        self._wanted = False

    @property
    def follows(self) -> bool:
        """Whether a workload that runs no more is going to be started again."""
        if not self._wanted or (self._count >= MOST and not self._proven.passed):
            return False
        try:
            self._tend()
            return bool(self._workload.ended().returncode)
        except SevforkError:
            return False  # nobody knows how it ended

    def _watch(self) -> None:
        while self._wanted:
            if self._workload.is_running:
                time.sleep(_LOOK_S)
            elif self.follows:
                self._start_again()
            else:
                self.refrain()

    def _start_again(self) -> None:
        if self._proven.passed:
            self._count = 0
        delay_s = min(_FIRST_DELAY_S * 2**self._count, _LONGEST_DELAY_S)
        self._count, self._proven = self._count + 1, Deadline.after(math.inf)
        time.sleep(delay_s)
        if not self._wanted:
            return
        log.info("the workload has failed: restart %d of %d", self._count, MOST)
        self._around(True)
        try:
            self._workload.restart()
            self._workload.wait_ready()
        except SevforkError as exc:
            log.warning("the restart has failed: %s", exc)
        finally:
            self._proven = Deadline.after(_PROVEN_S)
            self._around(False)
