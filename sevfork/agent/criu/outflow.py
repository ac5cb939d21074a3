"""Memory goes out while CRIU writes it, so that a copy of it never lies in the guest whole.

CRIU writes pages to a file on tmpfs. A thread sends what is there and gives it back behind itself.
CRIU copies faster than pages are sealed, so it is stopped (SIGSTOP) while it is too far ahead. In a
copy that is made while the workload runs that costs nobody anything. While all is frozen it would
be the workload's pause, so there nothing is sent, and nobody stopped, unless memory runs short.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from sevfork.agent.container.archive import Packer
from sevfork.agent.container.holes import Range
from sevfork.closing import Closing

_PIECE = 1 << 20
# Stopping CRIU costs time; so where there is memory it may be ahead by half of what is spare.
_AHEAD_BYTES = 32 * _PIECE
_POLL_S = 0.005
# While all is frozen each look is part of the pause, so the next one is when CRIU can have used up
# what is left. Faster than this no processor copies.
_FASTEST_BYTES_PER_S = 2 << 30
_LONGEST_POLL_S = 0.1


class Nowhere:
    """A sink that keeps nothing."""

    def write(self, data: bytes, /) -> object:
        return len(data)


class Outflow(Closing):
    """Sends the pages below ``directory`` as members that begin with ``prefix``.

    ``hold(True)`` stops who writes them, ``hold(False)`` lets it go on. ``spare`` says how many
    bytes are left until memory is short. ``frozen``: the workload stands still meanwhile. As a
    context it sends by the way; ``finish`` sends the rest.
    """

    def __init__(
        self,
        packer: Packer,
        directory: Path,
        prefix: str,
        hold: Callable[[bool], None],
        spare: Callable[[], int],
        frozen: bool,
    ) -> None:
        self.packer, self.directory, self.prefix = packer, directory, prefix
        self.hold, self.spare, self.frozen = hold, spare, frozen
        self.sent_bytes = 0
        self._sent: dict[Path, int] = {}
        self._failure: Exception | None = None
        self._done = threading.Event()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="outflow", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Send no more by the way; who was stopped goes on."""
        self._done.set()
        self._thread.join()

    def finish(self) -> int:
        """Send what is left, raise what went wrong; how many bytes it was in all."""
        if self._failure is not None:
            raise self._failure
        for path in self._pages():
            self._send(path, path.stat().st_size)
        return self.sent_bytes

    def _run(self) -> None:
        held = False
        try:
            while not self._done.is_set():
                held = self._step(held)
        finally:
            if held:
                self.hold(False)

    def _step(self, held: bool) -> bool:
        """One look: send a piece if it is time to, and say whether the writer is stopped now."""
        spare = self.spare()
        short = spare < 0
        sending = short or not self.frozen  # else not even a look at the files: it is the pause
        limit = min(max(spare // 2, _PIECE), _AHEAD_BYTES)
        wanted = sending and self._behind_bytes() >= limit
        if wanted != held:
            self.hold(wanted)
        if not (sending and self._send_piece()):
            self._done.wait(_POLL_S if sending else _until_used_up_s(spare))
        return wanted

    def _send_piece(self) -> bool:
        """Send the next whole piece, if there is one."""
        for path in self._pages():
            end = self._sent.get(path, 0) + _PIECE
            if path.stat().st_size >= end:
                self._send_or_drop(path, end)
                return True
        return False

    def _send_or_drop(self, path: Path, end: int) -> None:
        """After a failure, which finish() raises, pages go nowhere: CRIU has to come to its end."""
        try:
            self._send(path, end)
        except Exception as exc:
            self._failure = exc
            self.packer = Packer(Nowhere())

    def _send(self, path: Path, end: int) -> None:
        start = self._sent.get(path, 0)
        if end > start or not start:
            self.packer.move_part(f"{self.prefix}{path.name}", path, Range(start, end - start))
            self.sent_bytes += end - start
            self._sent[path] = end

    def _behind_bytes(self) -> int:
        return sum(path.stat().st_size - self._sent.get(path, 0) for path in self._pages())

    def _pages(self) -> list[Path]:
        return sorted(self.directory.glob("pages-*.img"))


def _until_used_up_s(spare_bytes: int) -> float:
    return min(max(spare_bytes / _FASTEST_BYTES_PER_S, _POLL_S), _LONGEST_POLL_S)
