"""The preloaded library is compiled from the recipe by the image's own compiler."""

from __future__ import annotations

from pathlib import Path

import pytest

from sevfork.image import fork_id
from sevfork.image.guest_root import GuestRoot
from sevfork.image.recipe import DEFAULT_DIRECTORY, Recipe


def test_the_compiler_is_in_the_recipe_and_pruned_from_the_root() -> None:
    recipe = Recipe.load((DEFAULT_DIRECTORY / "guest.toml").read_bytes())
    assert recipe.debian.compiler_packages == ("tcc",)
    assert {"usr/bin/tcc", "usr/lib/*/tcc"} <= set(recipe.root.prune)


def test_every_program_of_the_guest_preloads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()

    def compiled(argv: list[object], **_: object) -> None:
        assert (tmp_path / "fork-id.c").read_text() == "source"
        assert argv[:2] == ["chroot", tmp_path]
        (tmp_path / fork_id.LIBRARY).write_bytes(b"\x7fELF")

    monkeypatch.setattr(fork_id, "run", compiled)
    fork_id.install(GuestRoot(tmp_path), "source")
    assert (tmp_path / "etc/ld.so.preload").read_text() == f"/{fork_id.LIBRARY}\n"
    assert not (tmp_path / "fork-id.c").exists()
