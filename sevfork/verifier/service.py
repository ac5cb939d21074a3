"""A vendor's service, and what it said, kept on disk: whoever asks again, later or offline, has it.

Nothing that comes from here is believed: it takes its place in evidence, and is verified there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from sevfork.errors import AttestationFailed, HostCannot, SevforkError, TimedOut
from sevfork.verifier.http import Answer, Fetcher

REQUEST_TIMEOUT_S = 20.0
DEADLINE_S = 120.0
_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0
_LEFT_ALONE_S = 60.0
_OK = 200
# Too many requests, or trouble of the service's own, which pass.
_PASSING = {429, 500, 502, 503, 504}
OFFLINE_HINT = "fetch them with 'sevfork certs fetch', or give them as files with --certs"

# Reads what was published and says until when it is current (None: for ever); raises
# AttestationFailed for what is no such thing.
Until = Callable[[bytes], datetime | None]


@dataclass(frozen=True)
class Wanted:
    """One thing that a service publishes.

    ``what`` names it to a person, ``name`` is its file in the cache. ``keep`` makes of an answer
    what is kept.
    """

    what: str
    url: str
    name: str
    until: Until
    keep: Callable[[Answer], bytes] = lambda answer: answer.body


@dataclass
class Service:
    """One vendor's, or a cache of it; without a fetcher only the disk answers.

    ``anew``: what has a date is asked for again before that. ``now`` decides what is current;
    ``clock`` and ``sleep`` serve the deadline. A service that was not to be reached is left
    alone for a minute, so that a host without a network waits once and not for each thing.
    """

    title: str
    cache: Path
    fetcher: Fetcher | None = None
    deadline_s: float = DEADLINE_S
    anew: bool = False
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _out_of_reach: SevforkError | None = field(default=None, init=False)
    _left_alone_until: float = field(default=0.0, init=False)

    def get(self, wanted: Wanted) -> bytes:
        """What is kept and current; else what the service says, which is kept then.

        Raises HostCannot if it is not to be had, TimedOut if the service keeps turning us away.
        """
        kept = self.kept(wanted)
        if kept is not None and self.will_do(wanted.until(kept)):
            return kept
        if self.fetcher is None:
            age = "has run out" if kept is not None else "is not at hand"
            raise HostCannot(f"{wanted.what} {age}", hint=OFFLINE_HINT)
        if self._out_of_reach is not None and self.clock() < self._left_alone_until:
            raise self._out_of_reach
        return self._fetch(self.fetcher, wanted)

    def kept(self, wanted: Wanted) -> bytes | None:
        """What is on the disk, current or not; damage there counts as nothing."""
        try:
            content = self.path_of(wanted).read_bytes()
            wanted.until(content)
        except (FileNotFoundError, AttestationFailed):
            return None
        except OSError as exc:
            raise HostCannot(f"'{self.path_of(wanted)}' cannot be read: {exc.strerror}") from exc
        return content

    def will_do(self, until: datetime | None) -> bool:
        """Whether what is current until then need not be asked for."""
        return until is None or (until >= self.now() and not self.anew)

    def path_of(self, wanted: Wanted) -> Path:
        return self.cache / wanted.name

    def _fetch(self, fetcher: Fetcher, wanted: Wanted) -> bytes:
        """Only what can be read is kept, so that no odd answer stays in the cache."""
        answer = self._ask(fetcher, wanted)
        try:
            content = wanted.keep(answer)
            wanted.until(content)
        except AttestationFailed as exc:
            raise HostCannot(
                f"{self.title} answered '{wanted.url}' with something else: {exc.message}"
            ) from exc
        write(self.path_of(wanted), content)
        return content

    def _ask(self, fetcher: Fetcher, wanted: Wanted) -> Answer:
        """One URL, waiting for as long as the service has trouble that passes."""
        deadline, wait_s = self.clock() + self.deadline_s, _SHORTEST_WAIT_S
        while (answer := self._try(fetcher, wanted.url)).status in _PASSING:
            pause_s = wait_s if answer.retry_after_s is None else answer.retry_after_s
            if self.clock() + pause_s > deadline:
                raise self._unreachable(
                    TimedOut(
                        f"{self.title} still turns requests away after {self.deadline_s:g} s "
                        f"(status {answer.status})",
                        hint=OFFLINE_HINT,
                    )
                )
            self.sleep(pause_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        if answer.status != _OK or not answer.body:
            raise HostCannot(f"{self.title} answered {answer.status} to '{wanted.url}'")
        return answer

    def _try(self, fetcher: Fetcher, url: str) -> Answer:
        try:
            return fetcher(url, timeout_s=REQUEST_TIMEOUT_S)
        except HostCannot as exc:
            raise self._unreachable(exc) from exc

    def _unreachable(self, error: SevforkError) -> SevforkError:
        self._out_of_reach, self._left_alone_until = error, self.clock() + _LEFT_ALONE_S
        return error


def write(path: Path, content: bytes) -> None:
    """Whole or not at all. Raises HostCannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent, prefix=".new-") as scratch:
            temporary = Path(scratch) / "content"
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except OSError as exc:
        raise HostCannot(f"'{path}' cannot be written: {exc.strerror}") from exc
