"""Who a workload runs as, by the files of its own root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sevfork.agent.container import users
from sevfork.agent.container.users import User
from sevfork.errors import UsageError

ACCOUNTS = """root:x:0:0:root:/root:/bin/sh
web:x:33:34:web:/var/www:/bin/false
nohome:x:40:41:::
broken:x:forty:41::/:
short:x:1:1
"""
GROUP = """root:x:0:
web:x:34:
staff:x:50:web,other
disk:x:6:web
broken:x:y:web
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(ACCOUNTS)
    (tmp_path / "etc/group").write_text(GROUP)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "user"),
    [
        ("root", User(0, 0, (), "/root")),
        ("web", User(33, 34, (6, 50), "/var/www")),
        ("33", User(33, 34, (6, 50), "/var/www")),
        ("web:staff", User(33, 50, (), "/var/www")),
        ("web:77", User(33, 77, (), "/var/www")),
        ("1234", User(1234, 0, (), "/")),
        ("1234:56", User(1234, 56, (), "/")),
        ("nohome", User(40, 41, (), "/")),
    ],
)
def test_names_and_numbers(root: Path, words: str, user: User) -> None:
    assert users.find(root, words) == user


@pytest.mark.parametrize("words", ["nobody-here", "broken", "short", "4294967296", "-1"])
def test_who_is_not_there_is_an_error(root: Path, words: str) -> None:
    with pytest.raises(UsageError, match="no user"):
        users.find(root, words)


def test_a_group_that_is_not_there_is_an_error(root: Path) -> None:
    with pytest.raises(UsageError, match="no group 'nothing'"):
        users.find(root, "web:nothing")


def test_an_empty_root_has_root_and_numbers(tmp_path: Path) -> None:
    assert users.find(tmp_path, "root") == User(0, 0, (), "/")
    assert users.find(tmp_path, "7") == User(7, 0, (), "/")
    with pytest.raises(UsageError):
        users.find(tmp_path, "web")


def test_links_are_followed_inside_the_root_alone(root: Path, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.write_text("evil:x:0:0::/:\n")
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to(outside)
    with pytest.raises(UsageError, match="no user 'evil'"):
        users.find(root, "evil")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_has_nobody(tmp_path: Path, make: object) -> None:
    assert callable(make)
    (tmp_path / "etc").mkdir()
    make(tmp_path / "etc/passwd")
    with pytest.raises(UsageError, match="no user"):
        users.find(tmp_path, "web")


def test_a_file_that_is_too_large_is_refused(root: Path) -> None:
    (root / "etc/passwd").write_bytes(b"x" * (1 << 20) + b"y")
    with pytest.raises(UsageError, match="larger than"):
        users.find(root, "web")
