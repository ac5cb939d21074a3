"""Which packages are chosen when Debian has moved on since the lock was written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec
import pytest

from sevfork.errors import HostCannot
from sevfork.image.apt import PrivateApt, Unresolvable
from sevfork.image.base import BaseCache, BaseInfo, BaseRequest, PackageVersion
from sevfork.image.lock import Lock, Locked
from sevfork.image.packages import Package
from sevfork.image.recipe import DEFAULT_DIRECTORY, Debian, Recipe

RECIPE = Recipe.load((DEFAULT_DIRECTORY / "guest.toml").read_bytes())
REQUEST = BaseRequest(RECIPE, Lock(1, {"criu": Locked("1", "amd64", "aa")}), (), "", "", None)


@dataclasses.dataclass
class Mirror:
    """An apt for which the packages go together from the n-th attempt on."""

    works_from: int
    criu: str = "4.2.1-1"
    attempts: list[tuple[Debian, Lock]] = dataclasses.field(default_factory=list)

    def set_up(self, debian: Debian, mirror: str, lock: Lock) -> None:
        self.attempts.append((debian, lock))

    def resolve(self, wanted: Sequence[str]) -> list[Package]:
        if len(self.attempts) < self.works_from:
            raise Unresolvable("criu : Depends: libc6 (>= 2.99)")
        return [Package("criu", self.criu, "amd64", "bb", 1, "")]

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


def test_a_build_that_nothing_helps_fails() -> None:
    mirror = Mirror(works_from=3)
    with pytest.raises(Unresolvable, match="libc6"):
        choose(mirror)
    assert len(mirror.attempts) == 2
    assert {debian.newer_packages for debian, _ in mirror.attempts} == {
        RECIPE.debian.newer_packages
    }


@pytest.mark.parametrize("works_from", [1, 2])
def test_a_criu_that_gives_siblings_the_same_random_numbers_is_refused(works_from: int) -> None:
    """Whoever withholds the newer suite's packages from a build gets none at all."""
    with pytest.raises(HostCannot, match=r"CRIU 4\.2 or newer, and the mirror gives 4\.1\.1-1"):
        choose(Mirror(works_from, criu="4.1.1-1"))


def test_a_cached_stage_with_an_older_criu_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "bases" / REQUEST.key
    place.mkdir(parents=True)
    packages = (PackageVersion("criu", "4.1.1-1", "amd64", "aa"),)
    (place / "base.json").write_bytes(msgspec.json.encode(BaseInfo(1, packages, ())))
    cache = BaseCache(tmp_path, "http://mirror.invalid", lambda _: None)
    with pytest.raises(HostCannot, match=r"4\.1\.1-1"):
        cache.get(REQUEST, refresh=False, locked=False)


def test_a_locked_build_tries_nothing_else() -> None:
    mirror = Mirror(works_from=2)
    with pytest.raises(Unresolvable):
        choose(mirror, locked=True)
    assert len(mirror.attempts) == 1
