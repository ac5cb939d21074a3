"""What is read has limits; what is written is whole, or what was there stays."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sevfork.errors import UsageError
from sevfork.image.files import read_limited, write_private, write_whole


@pytest.fixture
def _full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)


def test_what_is_within_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_limited(tmp_path / "a", 5) == b"12345"


@pytest.mark.parametrize("name", ["/dev/zero", "a"])
def test_what_has_no_end_is_not_read_to_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    with pytest.raises(UsageError, match="more than 4 bytes"):
        read_limited(tmp_path / name, 4)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content in (b"one", b"two"):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    write_whole(tmp_path / "link", b"one")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert (tmp_path / "link").is_symlink()


def test_a_device_stays_one() -> None:
    write_whole(Path(os.devnull), b"gone")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


@pytest.mark.usefixtures("_full_disk")
def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(UsageError, match="No space left"):
        write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


@pytest.mark.usefixtures("_full_disk")
def test_a_full_disk_leaves_no_half_of_a_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No space left"):
        write_private(tmp_path / "key", b"secret")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [write_whole, write_private])
def test_what_cannot_be_written_is_named(write: object, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be written"):
        write(tmp_path / "file" / "a", b"x")  # type: ignore[operator]


def test_nobody_else_reads_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "made" / "key"
    write_private(path, b"secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with pytest.raises(UsageError, match="exists already"):
        write_private(path, b"another")
    assert path.read_bytes() == b"secret"
