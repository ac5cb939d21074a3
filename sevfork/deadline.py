"""One way to say how long something may take: a point in monotonic time that is handed down.

A deadline is made once, at the edge (``--timeout``), and every wait below it takes what is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from msgspec import Struct

from sevfork.errors import TimedOut


class Deadline(Struct, frozen=True, order=True):
    """``at``: seconds of ``time.monotonic()``, which no change of the wall clock moves."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Seconds that are left, never less than 0."""
        return max(0.0, self.at - time.monotonic())

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self.at

    def within(self, seconds: float) -> Deadline:
        """This deadline, or the sooner one that ``seconds`` from now is."""
        return min(self, Deadline.after(seconds))

    def check(self, message: str, *, hint: str | None = None) -> None:
        """Raise TimedOut with the message once the time is over."""
        if self.passed:
            raise TimedOut(message, hint=hint)

    def poll(
        self, every_s: float, message: str, *, sleep: Callable[[float], object] = time.sleep
    ) -> Iterator[None]:
        """Yield for each look at something until the caller leaves the loop; then TimedOut.

        There is one look at least, and one after the last pause. ``sleep`` may raise to end the
        wait early (a command that was interrupted).
        """
        while True:
            yield
            self.check(message)
            sleep(min(every_s, self.left_s))
