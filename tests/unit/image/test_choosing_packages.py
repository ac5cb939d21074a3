"""Which packages are chosen when Debian has moved on since the lock was written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from sevfork.image.apt import PrivateApt, Unresolvable
from sevfork.image.base import BaseCache, BaseRequest
from sevfork.image.lock import Lock, Locked
from sevfork.image.packages import Package
from sevfork.image.recipe import DEFAULT_DIRECTORY, Debian, Recipe

RECIPE = Recipe.load((DEFAULT_DIRECTORY / "guest.toml").read_bytes())
REQUEST = BaseRequest(RECIPE, Lock(1, {"criu": Locked("1", "amd64", "aa")}), (), "", "", None)


@dataclasses.dataclass
class Mirror:
    """An apt for which the packages go together from the n-th attempt on."""

    works_from: int
    attempts: list[tuple[Debian, Lock]] = dataclasses.field(default_factory=list)

    def set_up(self, debian: Debian, mirror: str, lock: Lock) -> None:
        self.attempts.append((debian, lock))

    def resolve(self, wanted: Sequence[str]) -> list[Package]:
        if len(self.attempts) < self.works_from:
            raise Unresolvable("criu : Depends: libc6 (>= 2.99)")
        return [Package("criu", "2", "amd64", "bb", 1, "")]

    def resolve_kernel(self, meta_package: str) -> Package:
        return Package("linux-image-6.12", "1", "amd64", "cc", 1, "")


def choose(mirror: Mirror, *, locked: bool = False) -> tuple[list[Package], list[str]]:
    said: list[str] = []
    cache = BaseCache(Path("/nowhere"), "http://mirror.invalid", said.append)
    return cache.resolve(cast(PrivateApt, mirror), REQUEST, locked), said


def test_locked_versions_are_asked_for_first() -> None:
    mirror = Mirror(works_from=1)
    packages, said = choose(mirror)
    assert [package.name for package in packages] == ["criu", "linux-image-6.12"]
    assert mirror.attempts == [(RECIPE.debian, REQUEST.lock)]
    assert len(said) == 1


def test_the_newest_are_tried_when_the_locked_do_not_go_together() -> None:
    mirror = Mirror(works_from=2)
    _, said = choose(mirror)
    assert mirror.attempts[-1] == (RECIPE.debian, Lock())
    assert "newest" in said[-1]


def test_the_stable_suite_alone_is_the_last_resort() -> None:
    mirror = Mirror(works_from=3)
    _, said = choose(mirror)
    assert mirror.attempts[-1][0].newer_packages == ()
    assert "without those of 'forky'" in said[-1]


def test_a_build_that_nothing_helps_fails() -> None:
    mirror = Mirror(works_from=4)
    with pytest.raises(Unresolvable, match="libc6"):
        choose(mirror)
    assert len(mirror.attempts) == 3


def test_a_locked_build_tries_nothing_else() -> None:
    mirror = Mirror(works_from=2)
    with pytest.raises(Unresolvable):
        choose(mirror, locked=True)
    assert len(mirror.attempts) == 1
