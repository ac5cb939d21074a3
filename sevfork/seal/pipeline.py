"""Chunks in flight: a few threads, a bounded number of buffers, results in order.

Threads and not processes, because AES-GCM and the I/O release the interpreter's lock. The bound
matters twice in a confidential guest: for memory, and because all of a device's I/O goes through a
small bounce buffer.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from sevfork.errors import HostCannot, TimedOut
from sevfork.seal.chunk import Chunk

# A medium that needs this long for 1 MiB is not slow, it hangs.
CHUNK_TIMEOUT_S = 300.0


def default_workers() -> int:
    """Two, so that one chunk is encrypted while another is written; one where there is one CPU."""
    return min(2, os.cpu_count() or 1)


class Pipeline:
    """Runs a job per chunk on ``workers`` threads; not to be shared between threads."""

    def __init__(self, workers: int) -> None:
        self.depth = workers + 1
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="seal")
        self._running: deque[Future[Chunk]] = deque()
        self._idle: list[Chunk] = []

    def __len__(self) -> int:
        return len(self._running)

    @property
    def full(self) -> bool:
        return len(self._running) >= self.depth

    def chunk(self) -> Chunk:
        """An empty chunk, used before where there is one; raise HostCannot if memory is short."""
        try:
            chunk = self._idle.pop() if self._idle else Chunk()
        except (OSError, MemoryError) as exc:
            raise HostCannot("sealed image: there is no memory for another chunk") from exc
        chunk.size = 0
        return chunk

    def submit(self, job: Callable[[Chunk], None], chunk: Chunk) -> None:
        def run() -> Chunk:
            job(chunk)
            return chunk

        self._running.append(self._pool.submit(run))

    def next(self) -> Chunk:
        """The oldest chunk when its job is done; raise what its job raised, or TimedOut."""
        try:
            return self._running.popleft().result(CHUNK_TIMEOUT_S)
        except TimeoutError as exc:
            raise TimedOut("sealed image: the volume does not answer") from exc

    def recycle(self, chunk: Chunk) -> None:
        self._idle.append(chunk)

    def close(self) -> None:
        """Drop what has not begun and wait for the rest: the caller may close the device next."""
        for future in self._running:
            future.cancel()
        wait(self._running, CHUNK_TIMEOUT_S)
        self._running.clear()
        self._idle.clear()
        self._pool.shutdown(wait=False)
