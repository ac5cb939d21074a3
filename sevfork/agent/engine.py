"""What captures a workload and brings it back, whatever the engine: the nouns and the interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from sevfork.errors import NotAuthentic, WrongState
from sevfork.wire.protocol import Step

GENERATION_FILE_SIZE = 4096  # one page, so that a mapping of it is a mapping of the whole file
UNIQUE_ID_SIZE = 16
OnStep = Callable[[Step], None]


class Sink(Protocol):
    """Where a capture is written, in order: the sealed image's writer."""

    def write(self, data: bytes, /) -> object: ...


class Source(Protocol):
    """Where a capture is read from: ``size`` bytes, or a full buffer, and fewer only at its end.

    None (``b""``, 0) only after everything has verified.
    """

    def read(self, size: int, /) -> bytes: ...

    def readinto(self, buffer: memoryview, /) -> int: ...


class Generation(Struct, frozen=True):
    """How many forks lie above this VM, and 16 bytes that no other VM of the family has."""

    counter: int
    unique_id: bytes

    def __post_init__(self) -> None:
        if len(self.unique_id) != UNIQUE_ID_SIZE or not 0 <= self.counter < 2**64:
            raise NotAuthentic("generation: a 64-bit counter and 16 bytes are needed")

    def page(self) -> bytes:
        """The generation file: u64 little-endian counter | unique id (16) | zeros to 4096 bytes."""
        head = self.counter.to_bytes(8, "little") + self.unique_id
        return head.ljust(GENERATION_FILE_SIZE, b"\0")


class CaptureCost(Struct, frozen=True):
    """What one capture cost. Times in milliseconds of CLOCK_MONOTONIC, sizes in bytes.

    ``pause_ms`` is the last and consistent freeze; ``earlier_pauses_ms`` are the short ones of the
    copies that were made while the workload ran.
    """

    pause_ms: float
    earlier_pauses_ms: tuple[float, ...]
    memory_bytes: int
    frozen_memory_bytes: int
    file_bytes: int
    frozen_file_bytes: int


class TrackingLost(WrongState):
    """An update has nothing to build on: the next capture has to be a base."""


class Engine(Protocol):
    """Each call ends within its own deadlines and raises a SevforkError when it fails.

    A capture is a *base*, or an *update* of the one before; a base and the updates that follow it
    are a chain of *layers*.
    """

    def probe(self) -> str | None:
        """None if the running workload can be captured, else the reason in words.

        It is a one-off capture, after which there is nothing to update.
        """

    def capture(self, sink: Sink, on_step: OnStep, *, keep: bool = False) -> CaptureCost:
        """Write the workload's state to the sink; the workload runs on, whatever happens.

        With ``keep`` it is the base of a chain: what an update needs to know of it stays in the
        guest. Without, it is one-off, and there is nothing to update afterwards.
        """

    def update(self, sink: Sink, on_step: OnStep) -> CaptureCost:
        """Write what has changed since the last layer, and keep what the next one needs.

        Raises TrackingLost if there is no last layer, and what ``capture`` raises. After any error
        there is nothing to update, and what the sink has got is of no use.
        """

    def forget(self) -> None:
        """Drop what is kept for an update."""

    @property
    def kept_bytes(self) -> int:
        """The guest memory that is held for an update; 0 if there is nothing to update."""

    def unpack(self, source: Source) -> None:
        """Read one layer to its end, on top of those before; nothing runs yet.

        The first is a base. After an error nothing is unpacked any more.
        """

    def discard(self) -> None:
        """Drop all that was unpacked."""

    def settle(self) -> None:
        """Do now what ``resume`` would have to do, as far as no later layer undoes it.

        In a guest that waits, after each layer: it gives back what the later layers have replaced.
        """

    def resume(self, generation: Generation) -> None:
        """Let what was unpacked run, as the given generation, and run the after-fork hooks."""

    def warm_up(self) -> None:
        """What makes a later ``unpack`` and ``resume`` faster and may be done before either."""
