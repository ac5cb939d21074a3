"""What the workload is doing, as the status reply tells it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Condition:
    """``phase`` as in ``wire.protocol.Status``; ``uncapturable`` is the engine's reason or None."""

    phase: str = "unconfigured"
    detail: str = ""
    uncapturable: str | None = None
    generation: int = 0


class Life:
    """The current condition; written by the thread that works, read by the one that serves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._condition = Condition()

    @property
    def now(self) -> Condition:
        with self._lock:
            return self._condition

    def change(self, **fields: object) -> None:
        with self._lock:
            self._condition = replace(self._condition, **fields)  # type: ignore[arg-type]  # checked by replace
