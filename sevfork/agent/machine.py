"""What the agent changes about the guest itself, and not inside its container."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from sevfork.agent import network
from sevfork.errors import RefusedByGuest


class Machine(Protocol):
    """``restoring`` is a marker: it exists while this VM restores its parent's state."""

    @property
    def restoring(self) -> Path: ...

    def raise_network(self) -> None: ...

    def step_clock(self, nanoseconds: int) -> None: ...


class Guest(Struct, frozen=True):
    """The guest that this agent runs in."""

    restoring: Path

    def raise_network(self) -> None:
        network.link_up()

    def step_clock(self, nanoseconds: int) -> None:
        """Move the wall clock. It is the host's word either way: the RTC is the host's, too."""
        try:
            time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() + nanoseconds)
        except (OSError, OverflowError) as exc:
            raise RefusedByGuest("the wall clock cannot be set to what the host says") from exc
