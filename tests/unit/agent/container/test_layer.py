"""The two copies of the upper layer give what it was at the second."""

from __future__ import annotations

import io
import os
import random
import tarfile
import time
from collections.abc import Callable, Set
from pathlib import Path

import pytest

from sevfork.agent.container import layer
from sevfork.agent.container.archive import Packer
from sevfork.agent.container.layer import LayerCopy, inodes_of, shared_mappings
from sevfork.agent.container.unpacker import Unpacker


def nothing_mapped() -> Set[int]:
    return frozenset()


class Clock:
    """The time, moved on so that what exists is old enough to be trusted."""

    def __init__(self, ahead_s: float) -> None:
        self._ahead_ns = int(ahead_s * 1e9)

    def __call__(self) -> int:
        return REAL_TIME_NS() + self._ahead_ns


REAL_TIME_NS = time.time_ns


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    (tmp_path / "upper").mkdir()
    return tmp_path / "upper"


def copied(
    upper: Path,
    tmp_path: Path,
    change: Callable[[], object],
    mapped: Callable[[], Set[int]] = nothing_mapped,
) -> tuple[Path, int]:
    """What a child has after a fork, and how many bytes were copied while all was frozen."""
    copy, packer = LayerCopy(upper), Packer(io.BytesIO())
    copy.copy_running(packer, mapped)
    change()
    spool = tmp_path / "spool"
    with spool.open("wb") as file:
        aside = Packer(file)
        copy.copy_frozen(aside, mapped)
    packer.append(spool)
    packer.end()
    for name in ("images", "files"):
        (tmp_path / name).mkdir()
    assert isinstance(packer.sink, io.BytesIO)
    Unpacker(tmp_path / "images", tmp_path / "files").read(io.BytesIO(packer.sink.getvalue()))
    return tmp_path / "files", aside.size_bytes


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", Clock(ahead_s=3600))


@pytest.mark.usefixtures("settled")
def test_what_did_not_change_is_copied_once(upper: Path, tmp_path: Path) -> None:
    (upper / "file").write_bytes(b"x" * 100_000)
    child, frozen_bytes = copied(upper, tmp_path, lambda: None)
    assert (child / "file").read_bytes() == b"x" * 100_000
    assert frozen_bytes == 0


@pytest.mark.usefixtures("settled")
def test_what_changed_is_copied_again(upper: Path, tmp_path: Path) -> None:
    (upper / "a").write_bytes(b"x" * 100)
    (upper / "b").write_bytes(b"y" * 100)
    child, frozen_bytes = copied(upper, tmp_path, lambda: (upper / "a").write_bytes(b"z" * 7))
    assert (child / "a").read_bytes() == b"z" * 7
    assert (child / "b").read_bytes() == b"y" * 100
    assert frozen_bytes == 7


def test_a_file_changed_within_the_clocks_tick_is_copied_again(upper: Path, tmp_path: Path) -> None:
    (upper / "file").write_text("one")
    times = (upper / "file").stat()

    def same_size_and_times() -> None:
        (upper / "file").write_text("two")
        os.utime(upper / "file", ns=(times.st_atime_ns, times.st_mtime_ns))

    child, _ = copied(upper, tmp_path, same_size_and_times)
    assert (child / "file").read_text() == "two"


@pytest.mark.usefixtures("settled")
def test_a_mapped_file_is_copied_again_although_its_times_say_nothing(
    upper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (upper / "mapped").write_text("one")
    inode = (upper / "mapped").stat().st_ino
    # What a shared mapping of tmpfs does: new content, old times.
    old_look = layer.Look(inode, (upper / "mapped").stat().st_mode, 3, 0, 0)
    monkeypatch.setattr(layer.Look, "at", classmethod(lambda cls, node: old_look))
    child, _ = copied(
        upper, tmp_path, lambda: (upper / "mapped").write_text("two"), lambda: {inode}
    )
    assert (child / "mapped").read_text() == "two"


@pytest.mark.usefixtures("settled")
def test_what_was_removed_is_gone(upper: Path, tmp_path: Path) -> None:
    (upper / "directory" / "deep").mkdir(parents=True)
    (upper / "directory" / "deep" / "file").touch()
    (upper / "stays").touch()

    def removed() -> None:
        (upper / "directory" / "deep" / "file").unlink()
        (upper / "directory" / "deep").rmdir()
        (upper / "directory").rmdir()

    child, _ = copied(upper, tmp_path, removed)
    assert [path.name for path in child.iterdir()] == ["stays"]


@pytest.mark.usefixtures("settled")
def test_a_node_may_become_one_of_another_kind(upper: Path, tmp_path: Path) -> None:
    (upper / "a").mkdir()
    (upper / "a" / "inside").touch()
    (upper / "b").touch()

    def swapped() -> None:
        (upper / "a" / "inside").unlink()
        (upper / "a").rmdir()
        (upper / "a").write_text("a file now")
        (upper / "b").unlink()
        (upper / "b").mkdir()

    child, _ = copied(upper, tmp_path, swapped)
    assert (child / "a").read_text() == "a file now"
    assert (child / "b").is_dir()


@pytest.mark.parametrize("seed", range(20))
def test_any_sequence_of_changes_gives_the_state_at_the_freeze(
    upper: Path, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311  # a test's choice, not a secret

    def changes() -> None:
        for _ in range(60):
            change_one(upper, chance)

    changes()
    child, _ = copied(upper, tmp_path, changes)
    assert contents(child) == contents(upper)


def change_one(upper: Path, chance: random.Random) -> None:
    path = upper / chance.choice("abcdef")
    other = upper / chance.choice("abcdef")
    actions: list[Callable[[], object]] = [
        lambda: path.write_text(str(chance.random())),
        path.unlink,
        path.mkdir,
        path.rmdir,
        lambda: path.symlink_to("/nowhere/at all"),
        lambda: path.rename(other),
        lambda: other.hardlink_to(path),
        lambda: (path / "inside").write_text(str(chance.random())),
        lambda: (path / "inside").unlink(),
    ]
    try:
        chance.choice(actions)()
    except OSError:
        return  # not possible in this state


def contents(root: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = "directory"
        else:
            found[name] = (path.read_text(), path.stat().st_nlink)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_any_sequence_of_updates_gives_the_state_at_the_last_freeze(
    upper: Path, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311  # a test's choice, not a secret
    copy, unpacker = LayerCopy(upper), Unpacker(tmp_path / "images", tmp_path / "files")
    for directory in (unpacker.images, unpacker.files):
        directory.mkdir()
    for _ in range(5):
        for _ in range(chance.randrange(40)):
            change_one(upper, chance)
        sink = io.BytesIO()
        packer = Packer(sink)
        copy.copy_running(packer, nothing_mapped)
        for _ in range(chance.randrange(20)):
            change_one(upper, chance)
        copy.copy_frozen(Packer(io.BytesIO()), nothing_mapped)  # CRIU asked for another try
        for _ in range(chance.randrange(5)):
            change_one(upper, chance)
        aside = io.BytesIO()
        copy.copy_frozen(Packer(aside), nothing_mapped)
        sink.write(aside.getvalue())
        packer.end()
        copy.keep()
        unpacker.read(io.BytesIO(sink.getvalue()))
        assert contents(unpacker.files) == contents(upper)
        assert times_of_directories(unpacker.files) == times_of_directories(upper)


def times_of_directories(root: Path) -> dict[str, int]:
    directories = (path for path in (root, *root.rglob("*")) if path.is_dir())
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in directories}


@pytest.mark.usefixtures("settled")
def test_an_update_holds_what_has_changed_and_nothing_else(upper: Path, tmp_path: Path) -> None:
    for name in ("same", "changed", "mapped", "renamed", "removed"):
        (upper / name).write_bytes(name.encode() * 1000)
    copy = LayerCopy(upper)
    copy.copy_running(Packer(io.BytesIO()), nothing_mapped)
    copy.copy_frozen(Packer(io.BytesIO()), nothing_mapped)
    copy.keep()
    (upper / "changed").write_text("it has")
    (upper / "renamed").rename(upper / "other")
    (upper / "removed").unlink()
    mapped = frozenset({(upper / "mapped").stat().st_ino})
    running, frozen = io.BytesIO(), io.BytesIO()
    copy.copy_running(Packer(running), lambda: mapped)
    copy.copy_frozen(Packer(frozen), lambda: mapped)
    assert members(running) == ["files/.", "files/changed", "files/other"]
    assert members(frozen) == ["removed", "files/mapped", "inodes"]


def members(stream: io.BytesIO) -> list[str]:
    return tarfile.open(fileobj=io.BytesIO(stream.getvalue()), mode="r:").getnames()


def test_a_file_that_changed_in_the_tick_of_the_freeze_is_in_the_next_update(upper: Path) -> None:
    (upper / "file").write_text("one")
    copy = LayerCopy(upper)
    copy.copy_running(Packer(io.BytesIO()), nothing_mapped)
    copy.copy_frozen(Packer(io.BytesIO()), nothing_mapped)
    copy.keep()
    frozen = io.BytesIO()
    copy.copy_frozen(Packer(frozen), nothing_mapped)
    assert "files/file" in members(frozen)
    assert copy.kept_bytes > 0


def test_only_shared_and_writable_mappings_of_files_count() -> None:
    maps = (
        "7f0-7f1 rw-s 00000000 00:1e 42                     /var/lib/app/shared file\n"
        "7f1-7f2 r--s 00000000 00:1e 43                     /run/sevfork/generation\n"
        "7f2-7f3 rw-p 00000000 00:1e 44                     /usr/bin/python3\n"
        "7f3-7f4 rw-s 00000000 00:01 45                     /memfd:x (deleted)\n"
        "7f4-7f5 rw-s 00000000 00:1e 46                     /odd\\012name\n"
        "7f5-7f6 rw-p 00000000 00:00 0 \n"
        "7f6-7f7 rw-p 00000000 00:00 0                      [heap]\n"
    )
    assert set(shared_mappings(maps)) == {
        "/var/lib/app/shared file",
        "/memfd:x (deleted)",
        "/odd\nname",
        "/odd\\012name",
    }


def test_mapped_files_that_the_layer_does_not_hold_are_no_matter(upper: Path) -> None:
    (upper / "a").touch()
    found = inodes_of(upper, ["/a", "/b", "/c/d", "/memfd:x (deleted)", "/../x"])
    assert found == {(upper / "a").stat().st_ino}


@pytest.mark.parametrize("odd", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", " ", "  a ", "\udcff"])
def test_mappings_of_files_with_odd_names_are_found(odd: str) -> None:
    maps = f"7f00-7f01 rw-s 00000000 00:1a 42                         /srv/a{odd}\n"
    assert f"/srv/a{odd}" in set(shared_mappings(maps * 2))


def test_lines_that_are_no_mapping_are_skipped() -> None:
    good = "7f00-7f01 rw-s 00000000 00:1a 42    /srv/a"
    anonymous = "7f00-7f01 rw-s 00000000 00:00 0 "
    lines = ["", "7f00", "x y z", "7f00-7f01 rw- 0 0 0 /srv/b", anonymous, good]
    assert set(shared_mappings("\n".join(lines))) == {"/srv/a"}
