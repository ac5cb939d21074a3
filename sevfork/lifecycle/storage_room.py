"""Room in the storage pool, and errors of volumes in words that name it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sevfork.errors import HostCannot, SevforkError
from sevfork.host.hypervisor import Hypervisor


@contextlib.contextmanager
def naming_the_pool(hypervisor: Hypervisor) -> Iterator[None]:
    """A guest whose volume fails knows of an I/O error only: say where that volume lies."""
    try:
        yield
    except HostCannot as exc:
        with contextlib.suppress(SevforkError):
            exc.message = f"{exc.message}; {room_in(hypervisor)}"
            exc.args = (exc.message,)
        raise


def room_in(hypervisor: Hypervisor) -> str:
    """How much the pool has left, and where it is."""
    storage = hypervisor.storage
    free, path = storage.free_bytes(), storage.path_of("").rstrip("/")
    return f"the storage pool at '{path}' has {free / 2**20:.0f} MiB free"
