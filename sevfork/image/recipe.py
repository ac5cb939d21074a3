"""The recipe of the guest image: ``firmware/guest.toml`` and the files beside it."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import msgspec
from msgspec import Struct

from sevfork.errors import UsageError
from sevfork.technology import Technology

DEFAULT_DIRECTORY = Path(__file__).resolve().parents[2] / "firmware"


class Debian(Struct, frozen=True, forbid_unknown_fields=True):
    """Which packages, from which suites of a mirror."""

    suite: str
    components: tuple[str, ...]
    security: bool
    newer_suite: str
    newer_packages: tuple[str, ...]
    kernel: str
    packages: tuple[str, ...]
    initramfs_packages: tuple[str, ...]
    compiler_packages: tuple[str, ...]


class Kernel(Struct, frozen=True, forbid_unknown_fields=True):
    command_line: tuple[str, ...]
    cpu_model: str


class Root(Struct, frozen=True, forbid_unknown_fields=True):
    prune: tuple[str, ...]


class Recipe(Struct, frozen=True, forbid_unknown_fields=True):
    """The recipe's data; ``modules`` maps a stage or a technology to kernel modules."""

    debian: Debian
    modules: dict[str, tuple[str, ...]]
    kernel: Kernel
    root: Root

    @classmethod
    def load(cls, data: bytes) -> Recipe:
        """Raise UsageError unless data is a well-formed recipe."""
        try:
            recipe = msgspec.convert(tomllib.loads(data.decode()), cls)
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as exc:
            raise UsageError(f"guest recipe: {exc}") from exc
        wanted = {"initramfs", "root", *(technology.value for technology in Technology)}
        if set(recipe.modules) != wanted:
            raise UsageError(f"guest recipe: 'modules' must name exactly {sorted(wanted)}")
        return recipe


def recipe_directory() -> Path:
    """Where the recipe is: ``SEVFORK_FIRMWARE``, else ``firmware/`` of the source tree."""
    directory = Path(os.environ.get("SEVFORK_FIRMWARE", DEFAULT_DIRECTORY))
    if not (directory / "guest.toml").is_file():
        raise UsageError(
            f"no guest recipe in '{directory}'",
            hint="run from a source tree, or name its firmware/ in SEVFORK_FIRMWARE",
        )
    return directory
