"""A state directory is used only where nobody else decides what it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sevfork.errors import InsecureRefused
from sevfork.host.own_path import require_own


def test_a_directory_of_ones_own_is_good_even_below_a_sticky_one(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "mine").mkdir(mode=0o700)
    require_own(shared / "mine")
    require_own(shared / "mine" / "not" / "there" / "yet")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(InsecureRefused, match="can be written to by others"):
        require_own(tmp_path)


def test_so_is_one_below_a_directory_that_others_may_write_to(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    tmp_path.chmod(0o777)
    with pytest.raises(InsecureRefused, match="can be written to by others"):
        require_own(tmp_path / "state")


def test_a_link_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    (tmp_path / "real" / "state").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for path in (tmp_path / "link", tmp_path / "link" / "state"):
        with pytest.raises(InsecureRefused, match="is a link"):
            require_own(path)


def test_a_directory_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(InsecureRefused, match="belongs to somebody else"):
        require_own(tmp_path)


def test_a_file_is_no_state_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InsecureRefused, match="is no directory"):
        require_own(tmp_path / "file")
