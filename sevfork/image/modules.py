"""Kernel modules of an allow-list, decompressed, in the order in which they can be loaded."""

from __future__ import annotations

import lzma
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from sevfork.errors import HostCannot

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


def dependencies(module: bytes) -> list[str]:
    """The modules that a module (an ELF object) says it needs, in its .modinfo section."""
    found = _DEPENDS.search(module)
    return found[1].decode().split(",") if found and found[1] else []


def load_order(wanted: Iterable[str], needs: Callable[[str], list[str]]) -> list[str]:
    """The wanted modules and all they need, each behind what it needs."""
    order: list[str] = []

    def add(name: str) -> None:
        for needed in needs(name):
            add(needed)
        if name not in order:
            order.append(name)

    for name in wanted:
        add(name)
    return order


class KernelModules:
    """The modules of an unpacked kernel package, by the name in their file name."""

    def __init__(self, directory: Path) -> None:
        self._paths = {
            path.name.removesuffix(".ko.xz"): path for path in directory.rglob("*.ko.xz")
        }

    def read(self, name: str) -> bytes:
        """The module, decompressed. Raise HostCannot when the kernel does not have it."""
        path = self._paths.get(name) or self._paths.get(name.replace("_", "-"))
        if path is None:
            raise HostCannot(f"this kernel has no module '{name}', which the guest recipe names")
        return lzma.decompress(path.read_bytes())

    def ordered(self, wanted: Iterable[str]) -> dict[str, bytes]:
        """Name to content of the wanted modules and their dependencies, in load order."""
        names = load_order(wanted, lambda name: dependencies(self.read(name)))
        return {name: self.read(name) for name in names}
