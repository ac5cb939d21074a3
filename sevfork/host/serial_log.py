"""A guest's serial log, which an admin needs when a guest did not come up. It holds no secret."""

from __future__ import annotations

import os
from pathlib import Path

from sevfork.domain.spec import GuestSpec
from sevfork.errors import SevforkError
from sevfork.host.hypervisor import Hypervisor
from sevfork.image.paths import cache_directory

_LIMIT_BYTES = 1024 * 1024


def keep(hypervisor: Hypervisor, spec: GuestSpec) -> Path | None:
    """Copy the log to this machine before the VM is removed; None if there is none."""
    data = read(hypervisor, spec)
    if data is None:
        return None
    path = cache_directory(os.environ) / "failed" / f"{spec.name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def read(hypervisor: Hypervisor, spec: GuestSpec) -> bytes | None:
    """The beginning of the log, at most a MiB; None if there is none."""
    for volume in hypervisor.storage.volumes():
        if volume.path == spec.console_log and volume.size_bytes:
            size = min(volume.size_bytes, _LIMIT_BYTES)
            return b"".join(hypervisor.storage.download(volume.name, size))
    return None


def add_to(error: SevforkError, hypervisor: Hypervisor, spec: GuestSpec) -> None:
    """Keep the log and say so in the error's hint; the error itself stays the first thing told."""
    try:
        kept = keep(hypervisor, spec)
    except (SevforkError, OSError) as exc:
        error.add_note(f"the serial log could not be kept: {exc}")
        return
    if kept:
        said = f"the guest's serial log: '{kept}'"
        error.hint = f"{error.hint}; {said}" if error.hint else said
