"""What the demo, the benchmark and the tests with real guests have in common.

Each plays a user: ``sevfork`` in the background, and a client of a Redis that a guest runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

SEVFORK = Path(sys.executable).parent / "sevfork"
# One emulated fork takes about half a minute on two cores that have nothing else to do.
COMMAND_TIMEOUT_S = 280
_END_TIMEOUT_S = 120


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def data(self) -> Any:
        return json.loads(self.stdout)


@dataclass
class Running:
    """A command in the background, its stderr read line by line."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self.lines.append(line)

    def wait_for(self, text: str, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        """Until a line of stderr holds the text; AssertionError if none does in time."""
        deadline = time.monotonic() + timeout_s
        while not any(text in line for line in list(self.lines)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"never said '{text}':\n{''.join(self.lines)}")
            time.sleep(0.02)

    def signal(self, number: int) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.ended().returncode

    def ended(self) -> Result:
        """Wait for its end."""
        code = self.process.wait(_END_TIMEOUT_S)
        self._reader.join(10)
        return Result(code, "", "".join(self.lines))


@contextmanager
def running(*words: str) -> Iterator[Running]:
    """``sevfork`` in the background; ended by force with the block if it has not ended before."""
    with subprocess.Popen(
        [SEVFORK, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        try:
            yield Running(child)
        finally:
            with suppress(ProcessLookupError):
                child.kill()


@contextmanager
def pool(name: str, size: int, *options: str, timeout_s: float) -> Iterator[None]:
    """``sevfork pool`` from when it is full on; ended in good order with the block."""
    with running("pool", name, "--size", str(size), *options) as keeper:
        try:
            keeper.wait_for("is full", timeout_s)
            yield
        finally:
            keeper.process.terminate()
            keeper.ended()


class LongestWait(threading.Thread):
    """A client with one connection that was open before, and counts up.

    Notes its longest wait for an answer, and the error that ended it.
    """

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(daemon=True)
        self._redis = client
        self._redis.ping()
        self._enough = threading.Event()
        self.count = 0
        self.longest_ms = 0.0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self._enough.is_set():
                before = time.monotonic()
                self.count = int(self._redis.incr("counter"))
                self.longest_ms = max(self.longest_ms, (time.monotonic() - before) * 1000)
                time.sleep(0.002)
        except redis.RedisError as exc:
            self.error = exc

    def __enter__(self) -> LongestWait:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self.join(90)
