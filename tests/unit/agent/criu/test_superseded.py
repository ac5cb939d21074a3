"""What no look-up reaches takes no memory; every look-up finds what it found."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sevfork.agent.criu.page_maps import PAGE_SIZE, PageRun
from sevfork.agent.criu.superseded import drop_superseded
from tests.support.fake_criu import new_page_map, restored_pages
from tests.support.stored import stored_bytes


def make_copy(
    directory: Path, runs: list[PageRun], tag: bytes, below: Path | None, pid: int = 7
) -> Path:
    directory.mkdir(exist_ok=True)
    page_map = new_page_map(directory / f"pagemap-{pid}.img", pid, runs)
    held = sum(run.count for run in runs if run.held)
    page_map.pages.write_bytes(b"".join((tag + b"%d" % n).ljust(PAGE_SIZE) for n in range(held)))
    if below is not None and not (directory / "parent").is_symlink():
        (directory / "parent").symlink_to(f"../{below.name}")
    return directory


def run(first: int, count: int, *, held: bool) -> PageRun:
    return PageRun(first * PAGE_SIZE, count, held)


def stored_pages(*copies: Path) -> int:
    files = (path for copy in copies for path in copy.glob("pages-*"))
    return sum(map(stored_bytes, files)) // PAGE_SIZE


def test_a_page_is_held_by_one_copy_only(tmp_path: Path) -> None:
    low = make_copy(tmp_path / "0", [run(0, 100, held=True)], b"low", None)
    runs = [run(0, 10, held=False), run(10, 30, held=True), run(60, 40, held=False)]
    top = make_copy(tmp_path / "1", runs, b"top", low)
    before = restored_pages(top, 7)
    drop_superseded([top, low])
    assert restored_pages(top, 7) == before
    assert (stored_pages(top), stored_pages(low)) == (30, 50)


def test_memory_of_processes_that_are_gone_is_gone(tmp_path: Path) -> None:
    low = make_copy(tmp_path / "0", [run(0, 100, held=True)], b"low", None)
    make_copy(tmp_path / "0", [run(0, 9, held=True)], b"other", None, pid=8)
    top = make_copy(tmp_path / "1", [run(0, 100, held=False)], b"top", low)
    drop_superseded([top, low])
    assert sorted(path.name for path in low.iterdir()) == ["pagemap-7.img", "pages-7.img"]


def test_a_number_that_two_processes_had_is_not_mixed_up(tmp_path: Path) -> None:
    low = make_copy(tmp_path / "0", [run(0, 100, held=True)], b"first", None)
    middle = make_copy(tmp_path / "1", [run(0, 5, held=True)], b"other", low, pid=8)
    top = make_copy(tmp_path / "2", [run(0, 50, held=True)], b"second", middle)
    make_copy(tmp_path / "2", [run(0, 5, held=False)], b"", middle, pid=8)
    before = [restored_pages(top, pid) for pid in (7, 8)]
    drop_superseded([top, middle, low])
    assert [restored_pages(top, pid) for pid in (7, 8)] == before
    assert stored_pages(low) == 0


@pytest.mark.parametrize("seed", range(30))
def test_any_chain_restores_as_before_and_holds_each_page_once(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  # a test's choice, not a secret
    copies: list[Path] = []
    known: set[int] = set()
    for number in range(5):
        runs, first = [], 0
        while first < 200:
            count = chance.randrange(1, 12)
            there = all(page in known for page in range(first, first + count))
            if chance.random() < 0.8:
                runs.append(run(first, count, held=not there or chance.random() < 0.4))
            first += count + chance.choice([0, 0, 3])
        known = {each.address // PAGE_SIZE + n for each in runs for n in range(each.count)}
        below = copies[0] if copies else None
        copies.insert(0, make_copy(tmp_path / str(number), runs, b"%d:" % number, below))
        before = restored_pages(copies[0], 7)
        drop_superseded(copies)
        assert restored_pages(copies[0], 7) == before
        assert stored_pages(*copies) == len(known)
