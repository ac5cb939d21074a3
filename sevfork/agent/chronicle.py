"""What this VM is told of its children: kept for whoever asks, told to its workload.

The workload has it as a line of JSON in ``/run/sevfork/children``, and its ``on_child_event`` hook
is run for each. Neither can hold up the agent: the file is short, the hook is run on a thread of
its own, and what fails there is in the log. Only LOST is the host's word.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from sevfork.agent.container.adopt import Ended
from sevfork.agent.unexpected import place_of
from sevfork.agent.workload import Hook
from sevfork.errors import SevforkError
from sevfork.wire.protocol import MAX_PAGE, Entry, LifeEvent, status_and_signal

log = logging.getLogger(__name__)

# All that is kept: of the youngest children 64 have all of their events in it, whatever they send.
MAX_ENTRIES = 1024
# The file is cut to the younger half of what is kept when it grows beyond this.
MAX_FILE_BYTES = 256 * 1024
_MAX_WAITING_HOOKS = 256


class Home(Protocol):
    """The container that the workload runs in."""

    @property
    def is_running(self) -> bool: ...

    def tell(self, line: bytes) -> int:
        """Append to the file of children; its size then. Raises SevforkError, OSError."""

    def tell_anew(self, lines: bytes) -> None:
        """Replace what stands in that file."""

    def exec(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, *, timeout_s: float
    ) -> Ended: ...


class Told(Struct, frozen=True):
    """One thing that happened to one child, which is named by its place and its unique id."""

    child: bytes
    fork_id: bytes
    index: int
    event: LifeEvent
    returncode: int | None = None


class Chronicle:
    """All that was told, as far back as it is kept."""

    def __init__(self, home: Home, hook: Hook | None) -> None:
        self._home = home
        self.hooks = EventHook(home, hook) if hook else None
        self._entries: deque[Entry] = deque(maxlen=MAX_ENTRIES)
        self._count = 0

    def after(self, number: int) -> list[Entry]:
        """The next entries, as many as one reply takes."""
        return [entry for entry in self._entries if entry.number > number][:MAX_PAGE]

    def write(self, told: Told) -> None:
        self._count += 1
        entry = Entry(
            number=self._count,
            wall_ns=time.time_ns(),
            child=told.child,
            fork_id=told.fork_id,
            index=told.index,
            event=told.event,
            returncode=told.returncode,
        )
        self._entries.append(entry)
        self._tell(entry)
        if self.hooks:
            self.hooks.put(entry)

    def _tell(self, entry: Entry) -> None:
        """The workload owns the directory, and may have done anything to it."""
        try:
            if self._home.tell(line_of(entry)) > MAX_FILE_BYTES:
                younger = list(self._entries)[-MAX_ENTRIES // 2 :]
                self._home.tell_anew(b"".join(map(line_of, younger)))
        except (SevforkError, OSError) as exc:
            log.warning("the workload could not be told of a child: %s", type(exc).__name__)


def line_of(entry: Entry) -> bytes:
    """One line of JSON, as docs/events.md has it."""
    document = {
        "time_s": round(entry.wall_ns / 1e9, 3),
        "child": entry.child.hex(),
        "fork_id": entry.fork_id.hex(),
        "index": entry.index,
        "event": entry.event.value,
        **status_and_signal(entry.returncode),
    }
    return json.dumps(document).encode() + b"\n"


class EventHook:
    """Runs a hook for one entry after the other, on a thread that begins with the first."""

    def __init__(self, home: Home, hook: Hook) -> None:
        self._home, self._hook = home, hook
        self._waiting: queue.Queue[Entry] = queue.Queue(_MAX_WAITING_HOOKS)
        self._thread = threading.Thread(target=self._run, name="child events", daemon=True)

    def put(self, entry: Entry) -> None:
        """Never waits: where too many wait already, this one is left out."""
        try:
            self._waiting.put_nowait(entry)
        except queue.Full:
            log.warning("on_child_event: %d wait, one is left out", _MAX_WAITING_HOOKS)
        if not self._thread.is_alive():
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._run_for(self._waiting.get())
            self._waiting.task_done()

    @property
    def waiting(self) -> int:
        """Entries that the hook is yet to be run for, without the one that it runs for."""
        return self._waiting.qsize()

    def wait(self) -> None:
        """Until all that was put has been run."""
        self._waiting.join()

    def _run_for(self, entry: Entry) -> None:
        if not self._home.is_running:
            return
        try:
            ended = self._home.exec(
                self._hook.command, dict(environment(entry)), timeout_s=self._hook.timeout_s
            )
        except SevforkError as exc:
            log.warning("on_child_event: %s", exc.message)
        except Exception as exc:
            log.error("on_child_event failed unexpectedly: %s", place_of(exc))
        else:
            if ended.returncode:
                log.warning("on_child_event: the hook %s", ended)


def environment(entry: Entry) -> Iterator[tuple[str, str]]:
    """What the hook is told; STATUS and SIGNAL only of a workload that exited so."""
    yield "SEVFORK_EVENT", entry.event.value
    yield "SEVFORK_CHILD", entry.child.hex()
    yield "SEVFORK_FORK_ID", entry.fork_id.hex()
    yield "SEVFORK_CHILD_INDEX", str(entry.index)
    for name, value in status_and_signal(entry.returncode).items():
        if value is not None:
            yield f"SEVFORK_{name.upper()}", str(value)
