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
from typing import TypeVar

from sevfork.errors import HostCannot
from sevfork.seal.chunk import Chunk

# A medium that needs this long for 1 MiB is not slow, it hangs (a server of NFS that has gone); and
# the workload may be waiting, frozen.
CHUNK_TIMEOUT_S = 20.0
# All that lies in the host's page cache goes out with a flush; the workload runs on meanwhile.
FLUSH_TIMEOUT_S = 120.0


def default_workers() -> int:
    """Two, so that one chunk is encrypted while another is written; one where there is one CPU."""
    return min(2, os.cpu_count() or 1)


_Result = TypeVar("_Result")


class Pipeline:
    """Runs a job per chunk on ``workers`` threads; not to be shared between threads."""

    def __init__(self, workers: int) -> None:
        self.depth = workers + 1
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="seal")
        self._running: deque[Future[Chunk]] = deque()
        self._idle: list[Chunk] = []
        self._hangs = False

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
        chunk.clear()
        return chunk

    def submit(self, job: Callable[[Chunk], None], chunk: Chunk) -> None:
        def run() -> Chunk:
            job(chunk)
            return chunk

        self._running.append(self._pool.submit(run))

    def next(self) -> Chunk:
        """The oldest chunk when its job is done; raise what its job raised, HostCannot if stuck."""
        return self._result(self._running.popleft(), CHUNK_TIMEOUT_S)

    def flush(self, job: Callable[[], None]) -> None:
        """Have the medium flushed; raise what that raised, HostCannot if stuck."""
        self._result(self._pool.submit(job), FLUSH_TIMEOUT_S)

    def _result(self, future: Future[_Result], timeout_s: float) -> _Result:
        if not future.done() and not wait([future], timeout_s).done:
            self._hangs = True
            raise HostCannot("sealed image: the volume does not answer")
        return future.result()

    def recycle(self, chunk: Chunk) -> None:
        self._idle.append(chunk)

    def close(self) -> None:
        """Drop what has not begun and wait for the rest: the caller may close the device next.

        What hangs is not waited for; the kernel keeps the device open until that has ended.
        """
        for future in self._running:
            future.cancel()
        if not self._hangs:
            wait(self._running, CHUNK_TIMEOUT_S)
        self._running.clear()
        self._idle.clear()
        self._pool.shutdown(wait=False)
