"""Walking and writing below a directory that belongs to somebody hostile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sevfork.agent.container.tree import (
    MAX_DEPTH,
    append_file,
    make_directory,
    parent_of,
    remove,
    resolve,
    walk,
    write_file,
)
from sevfork.errors import RefusedByGuest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def test_a_directory_comes_before_what_it_holds(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_text("x")
    (root / "z").symlink_to("/")
    assert [node.path for node in walk(root)] == [".", "a", "a/b", "a/b/file", "z"]


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("/var/run/redis", "run/redis"),
        ("var/run", "run"),
        ("/lib/x", "usr/lib/x"),
        ("/var/lock/x", "run/lock/x"),
        ("/not/there", "not/there"),
        ("/../../etc", "etc"),
        ("/", ""),
    ],
)
def test_links_lead_where_they_lead_for_those_in_the_tree(
    root: Path, path: str, leads_to: str
) -> None:
    (root / "var").mkdir()
    (root / "var/run").symlink_to("/run")
    (root / "var/lock").symlink_to("/var/run/lock")
    (root / "lib").symlink_to("usr/lib")
    assert resolve(root, path) == leads_to


def test_links_that_go_round_lead_nowhere(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(RefusedByGuest, match="40 links"):
        resolve(root, "a/file")


def test_a_link_to_a_directory_is_not_walked_into(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("x")
    (root / "link").symlink_to(tmp_path / "secret")
    assert [node.path for node in walk(root)] == [".", "link"]


def test_a_directory_that_becomes_a_link_during_the_walk_is_not_followed(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("x")
    (root / "a").mkdir()
    seen = []
    for node in walk(root):
        seen.append(node.path)
        if node.path == "a":
            (root / "a").rmdir()
            (root / "a").symlink_to(tmp_path / "secret")
    assert seen == [".", "a"]


def test_what_disappears_during_the_walk_is_left_out(root: Path) -> None:
    for name in "abc":
        (root / name).write_text("x")
    seen = []
    for node in walk(root):
        seen.append(node.path)
        (root / "b").unlink(missing_ok=True)
    assert seen == [".", "a", "c"]


def test_a_file_is_written_in_place_of_a_link_and_not_through_it(
    root: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (root / "etc").mkdir()
    (root / "etc" / "machine-id").symlink_to(victim)
    write_file(root, "etc/machine-id", b"new", 0o444)
    assert victim.read_text() == "untouched"
    assert not (root / "etc" / "machine-id").is_symlink()
    assert (root / "etc" / "machine-id").read_bytes() == b"new"


def test_a_file_is_not_written_through_a_linked_directory(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (root / "etc").symlink_to(tmp_path / "outside")
    with pytest.raises(RefusedByGuest, match="'etc' in the container is no directory"):
        write_file(root, "etc/machine-id", b"new")
    assert list((tmp_path / "outside").iterdir()) == []


def test_missing_directories_are_made(root: Path) -> None:
    write_file(root, "run/sevfork/generation", b"page", 0o444)
    assert (root / "run" / "sevfork" / "generation").read_bytes() == b"page"
    assert (root / "run" / "sevfork" / "generation").stat().st_mode & 0o777 == 0o444


def test_a_writable_directory_is_made_with_its_owner(root: Path) -> None:
    make_directory(root, "var/lib/app", os.getuid(), os.getgid())
    assert (root / "var" / "lib" / "app").is_dir()
    assert list((root / "var" / "lib" / "app").iterdir()) == []


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/x", "a//b", "", ".", "a/."])
def test_paths_that_could_lead_elsewhere_are_refused(root: Path, path: str) -> None:
    with pytest.raises(RefusedByGuest), parent_of(root, path, create=True):
        pass


def test_removing_goes_into_directories_but_not_through_links(root: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "link").symlink_to(tmp_path / "kept")
    with parent_of(root, "a") as (directory, name):
        remove(directory, name)
        remove(directory, "never-there")
    assert list(root.iterdir()) == []
    assert (tmp_path / "kept" / "file").exists()


def test_no_descriptor_is_left_open(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in walk(root):
        pass
    with pytest.raises(RefusedByGuest), parent_of(root, "a/x/y"):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_that_is_written_anew_stays_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("longer than what comes")
    before = (tmp_path / "file").stat().st_ino
    write_file(tmp_path, "file", b"short", 0o440)
    assert (tmp_path / "file").read_bytes() == b"short"
    assert (tmp_path / "file").stat().st_ino == before
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o440


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/etc")])
def test_what_is_no_file_makes_way_for_one(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "file")
    write_file(tmp_path, "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert not (tmp_path / "file").is_symlink()


def deep(root: Path, levels: int) -> None:
    """A chain of directories, made as a workload would make one that no path can name."""
    directory = os.open(root, os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=directory)
        below = os.open("d", os.O_DIRECTORY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)


def levelled(root: Path) -> None:
    """Remove such a chain from its top: pytest, clearing up, would not come to its end."""
    while (root / "d" / "d").exists():
        (root / "d" / "d").rename(root / "below")
        (root / "d").rmdir()
        (root / "below").rename(root / "d")


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 1100])
def test_a_tree_that_is_too_deep_is_refused_in_words(root: Path, levels: int) -> None:
    """1,100 levels ended in a RecursionError."""
    deep(root, levels)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(RefusedByGuest, match="256 levels deep"):
        list(walk(root))
    with pytest.raises(RefusedByGuest, match="256 levels deep"), parent_of(root, "d") as place:
        remove(*place)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    levelled(root)


def test_a_tree_of_the_greatest_depth_is_walked_and_removed(root: Path) -> None:
    before = len(list(walk(root)))
    deep(root, MAX_DEPTH)
    assert len(list(walk(root))) == before + MAX_DEPTH
    with parent_of(root, "d") as place:
        remove(*place)
    assert len(list(walk(root))) == before


def test_a_line_is_added_to_the_file_that_is_there(root: Path) -> None:
    assert append_file(root, "run/children", b"one\n", 0o444) == 4
    before = (root / "run/children").stat()
    with (root / "run/children").open("rb") as reader:
        assert append_file(root, "run/children", b"two\n", 0o444) == 8
        assert reader.read() == b"one\ntwo\n"
    after = (root / "run/children").stat()
    assert (after.st_ino, after.st_mode & 0o777) == (before.st_ino, 0o444)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("/etc")])
def test_a_line_is_added_to_a_file_and_to_nothing_else(
    root: Path, make: Callable[[Path], object]
) -> None:
    make(root / "children")
    assert append_file(root, "children", b"one\n") == 4
    assert (root / "children").read_bytes() == b"one\n"
    assert not (root / "children").is_symlink()


def test_a_line_is_not_added_through_a_link_to_a_directory(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (root / "run").symlink_to(tmp_path / "outside")
    with pytest.raises(RefusedByGuest):
        append_file(root, "run/children", b"one\n")
    assert list((tmp_path / "outside").iterdir()) == []
