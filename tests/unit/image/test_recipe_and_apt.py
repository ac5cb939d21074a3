"""The recipe of the repository, and the private apt that it configures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sevfork.errors import NotAuthentic, UsageError
from sevfork.image import apt, paths
from sevfork.image.base import BaseRequest, require_locked
from sevfork.image.lock import Lock
from sevfork.image.packages import Package
from sevfork.image.recipe import DEFAULT_DIRECTORY, Recipe

TEXT = (DEFAULT_DIRECTORY / "guest.toml").read_bytes()
RECIPE = Recipe.load(TEXT)


def test_a_panic_ends_the_vm_and_nothing_is_sent_by_itself() -> None:
    command_line = RECIPE.kernel.command_line
    for word in ("panic=-1", "oops=panic", "ipv6.disable_ipv6=1", "module.sig_enforce=1"):
        assert word in command_line
    assert "transparent_hugepage=madvise" in command_line
    assert not any(word.startswith(("break", "init=", "rdinit=", "debug")) for word in command_line)


def test_evidence_drivers_are_only_in_the_images_of_their_technology() -> None:
    assert RECIPE.modules["simulated"] == ()
    for stage in ("initramfs", "root", "simulated"):
        assert not {"sev-guest", "tdx-guest", "tsm"} & set(RECIPE.modules[stage])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'suite = "trixie"', b"suite = 13"),
        (b"[debian]", b"[debian]\nunknown = 1"),
        (b"simulated = []", b""),
        (b"simulated = []", b"simulated = []\nsev = []"),
    ],
)
def test_a_recipe_that_is_not_exactly_right_is_rejected(old: bytes, new: bytes) -> None:
    assert old in TEXT
    with pytest.raises(UsageError, match="guest recipe"):
        Recipe.load(TEXT.replace(old, new, 1))


def test_a_missing_recipe_says_how_to_name_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sevfork.image.recipe import recipe_directory

    monkeypatch.setenv("SEVFORK_FIRMWARE", str(tmp_path))
    with pytest.raises(UsageError, match="no guest recipe") as caught:
        recipe_directory()
    assert "SEVFORK_FIRMWARE" in (caught.value.hint or "")


def test_security_updates_come_from_the_same_mirror() -> None:
    text = apt.sources(RECIPE.debian, "http://mirror.example/debian")
    assert "deb http://mirror.example/debian trixie main\n" in text
    assert "deb http://mirror.example/debian-security trixie-security main\n" in text
    assert "deb http://mirror.example/debian forky main\n" in text


def test_only_named_packages_come_from_the_newer_suite_and_locked_ones_first() -> None:
    locked = Lock().updated([Package("criu", "4.2.1-1", "amd64", "aa", 1, "")], 1)
    text = apt.preferences(RECIPE.debian, locked)
    stanzas: dict[str, list[str]] = {}
    for stanza in text.strip().split("\n\n"):
        name, *lines = stanza.split("\n")
        stanzas.setdefault(name.removeprefix("Package: "), lines)  # apt: the first that applies
    assert stanzas["criu"] == ["Pin: version 4.2.1-1", "Pin-Priority: 1001"]
    assert stanzas["runc"] == ["Pin: release n=forky", "Pin-Priority: 990"]
    assert stanzas["*"] == ["Pin: release n=forky", "Pin-Priority: 100"]


def test_a_damaged_download_is_removed_and_refused(tmp_path: Path) -> None:
    file = tmp_path / "criu.deb"
    file.write_bytes(b"other")
    with pytest.raises(NotAuthentic):
        apt.check_file(file, Package("criu", "1", "amd64", "00" * 32, 1, ""))
    assert not file.exists()


def test_mirror_and_cache_follow_the_environment() -> None:
    assert paths.mirror({}) == "http://deb.debian.org/debian"
    assert paths.mirror({"SEVFORK_DEBIAN_MIRROR": "http://m/debian/"}) == "http://m/debian"
    assert paths.cache_directory({"HOME": "/h"}) == Path("/h/.cache/sevfork")
    assert paths.cache_directory({"HOME": "/h", "XDG_CACHE_HOME": "/c"}) == Path("/c/sevfork")


REQUEST = BaseRequest(RECIPE, Lock(), ("redis-server",), "wheels", "", None)


@pytest.mark.parametrize(
    "change",
    [
        {"packages": ("gunicorn",)},
        {"wheels": "other"},
        {"epoch_s": 1},
        {"lock": Lock(1, {})},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_cached_base_is_not_used_for_other_inputs(change: dict[str, object]) -> None:
    assert dataclasses.replace(REQUEST, **change).key != REQUEST.key  # type: ignore[arg-type]


def test_the_order_of_packages_makes_no_other_base() -> None:
    one = dataclasses.replace(REQUEST, packages=("a1", "b1"))
    assert one.key == dataclasses.replace(REQUEST, packages=("b1", "a1", "b1")).key


def test_locked_stops_when_something_moved() -> None:
    require_locked((), locked=True)
    require_locked(("criu: locked 1, taken 2",), locked=False)
    with pytest.raises(UsageError, match="criu: locked 1, taken 2") as caught:
        require_locked(("criu: locked 1, taken 2",), locked=True)
    assert "--update-lock" in (caught.value.hint or "")
