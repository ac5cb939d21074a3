"""What the workload is doing, as the status reply tells it."""

from __future__ import annotations

import threading

from msgspec import Struct
from msgspec.structs import replace

from sevfork.wire.protocol import WorkloadPhase


class VmState(Struct, frozen=True):
    """``uncapturable`` is what the last trial said, or None; ``printed`` are the last words of a
    workload that did not start."""

    phase: WorkloadPhase = WorkloadPhase.UNCONFIGURED
    detail: str = ""
    printed: str = ""
    uncapturable: str | None = None
    generation: int = 0


class CurrentState:
    """The current state; written by the thread that works, read by the one that serves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = VmState()

    @property
    def now(self) -> VmState:
        with self._lock:
            return self._state

    def change(self, **fields: object) -> None:
        with self._lock:
            self._state = replace(self._state, **fields)
