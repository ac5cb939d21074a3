"""A container image, taken: its tree on this machine, and the workload that it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct

from sevfork.image.guest_root import GuestRoot
from sevfork.image.oci import config, fetch, toml, unpack
from sevfork.image.oci.reference import Reference


class ContainerSource(Struct, frozen=True):
    """``reference`` as it was given; digests of its manifest and configuration, ``sha256:...``."""

    reference: str
    digest: str
    configuration: str


@dataclass(frozen=True)
class ContainerImage:
    """``root``: its tree, to be moved into the guest's. ``table``: its workload."""

    source: ContainerSource
    root: GuestRoot
    table: Mapping[str, object]

    @property
    def workload_file(self) -> bytes:
        """The whole workload, as a guest reads it."""
        return toml.render(self.table)

    def summary(self, file: Mapping[str, object]) -> list[str]:
        """Lines: what was taken from its configuration, beside what the workload file says."""
        taken = {key: self.table[key] for key in sorted(self.table) if key not in file}
        shown = (
            toml.render({key: value}).decode().strip() for key, value in taken.items() if value
        )
        return [f"container image {self.source.digest}", *shown]


def take(
    reference: Reference, file: Mapping[str, object], directory: Path, authfile: Path | None
) -> ContainerImage:
    """Fetch and unpack into ``directory``, which is private. Takes root's rights.

    ``file``: what the workload file says. Raise UsageError for what cannot be a workload.
    """
    fetch.require_programs()
    fetched = fetch.fetch(reference, directory, authfile)
    root = GuestRoot(directory / "root")
    unpack.unpack(fetched.layout, root)
    table = config.workload_table(fetched.configuration, file, reference.name, _locating(root))
    source = ContainerSource(reference.text, fetched.digest, fetched.configuration_digest)
    return ContainerImage(source, root, table)


def _locating(root: GuestRoot) -> config.Locate:
    def locate(program: str, path: str, directory: str) -> str | None:
        places = config.candidates(program, path, directory)
        return next((place for place in places if _is_program(root, place)), None)

    return locate


def _is_program(root: GuestRoot, path: str) -> bool:
    return root.exists(path) and root.real(path).is_file() and os.access(root.real(path), os.X_OK)
