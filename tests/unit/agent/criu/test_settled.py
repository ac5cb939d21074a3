"""Copies that are made one restore as before, and hold each page once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sevfork.agent.criu import comb, rpc
from sevfork.agent.criu.images import write
from sevfork.agent.criu.page_maps import PAGE_SIZE, PageMap, PageRun
from sevfork.agent.criu.settled import settle
from sevfork.agent.criu.wipe_on_fork import wipe
from tests.support.fake_criu import restored_pages

MM_MAGIC, WIPE_ON_FORK = 0x57492820, 1 << 18


def make_copy(
    directory: Path, runs: list[PageRun], tag: bytes, below: Path | None, pid: int = 7
) -> Path:
    directory.mkdir(exist_ok=True)
    page_map = PageMap.create(directory / f"pagemap-{pid}.img", pid, runs)
    held = sum(run.count for run in runs if run.held)
    page_map.pages.write_bytes(b"".join((tag + b"%d" % n).ljust(PAGE_SIZE) for n in range(held)))
    if below is not None and not (directory / "parent").is_symlink():
        (directory / "parent").symlink_to(f"../{below.name}")
    return directory


def run(first: int, count: int, *, held: bool) -> PageRun:
    return PageRun(first * PAGE_SIZE, count, held)


def stored_pages(*copies: Path) -> int:
    files = (path for copy in copies for path in copy.glob("pages-*"))
    return sum(path.stat().st_blocks * 512 for path in files) // PAGE_SIZE


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "settled"


def test_a_page_is_held_once_and_the_last_map_is_short(tmp_path: Path, place: Path) -> None:
    low = make_copy(tmp_path / "0", [run(1, 100, held=True)], b"low", None)
    runs = [run(1, 10, held=False), run(11, 30, held=True), run(61, 40, held=False)]
    top = make_copy(tmp_path / "1", runs, b"top", low)
    before = restored_pages(top, 7)
    settle([top, low], place)
    assert restored_pages(top, 7) == before
    assert stored_pages(top, place) == len(before) == 80
    assert len(PageMap(top / "pagemap-7.img").entries()) == 2
    assert not low.exists()


def test_a_page_that_changes_takes_the_place_of_the_one_before(tmp_path: Path, place: Path) -> None:
    chain = [make_copy(tmp_path / "0", [run(1, 100, held=True)], b"low", None)]
    settle(chain, place)
    for number in range(1, 20):
        runs = [run(1, 20, held=False), run(21, 50, held=True), run(71, 30, held=False)]
        top = make_copy(tmp_path / str(number), runs, b"%d" % number, chain[0])
        before = restored_pages(top, 7)
        settle([top, chain[0], place], place)
        assert restored_pages(top, 7) == before
        assert stored_pages(top, place) == 100
        chain = [top]


def test_memory_of_processes_that_are_gone_is_gone(tmp_path: Path, place: Path) -> None:
    low = make_copy(tmp_path / "0", [run(1, 100, held=True)], b"low", None)
    make_copy(tmp_path / "0", [run(1, 9, held=True)], b"other", None, pid=8)
    settle([low], place)
    top = make_copy(tmp_path / "1", [run(1, 100, held=False)], b"top", low)
    settle([top, low, place], place)
    assert [path.name for path in place.glob("pagemap-*")] == ["pagemap-7.img"]
    assert stored_pages(top, place) == 100


def test_a_number_that_two_processes_had_is_not_mixed_up(tmp_path: Path, place: Path) -> None:
    low = make_copy(tmp_path / "0", [run(1, 100, held=True)], b"first", None)
    settle([low], place)
    middle = make_copy(tmp_path / "1", [run(1, 5, held=True)], b"other", low, pid=8)
    top = make_copy(tmp_path / "2", [run(1, 50, held=True)], b"second", middle)
    make_copy(tmp_path / "2", [run(1, 5, held=False)], b"", middle, pid=8)
    before = [restored_pages(top, pid) for pid in (7, 8)]
    settle([top, middle, low, place], place)
    assert [restored_pages(top, pid) for pid in (7, 8)] == before
    assert stored_pages(top, place) == 55


@pytest.mark.parametrize("seed", range(30))
def test_any_chain_restores_as_before(
    tmp_path: Path, place: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comb, "STRETCH_PAGES", 16)
    chance = random.Random(seed)  # noqa: S311  # a test's choice, not a secret
    copies: list[Path] = []
    known: set[int] = set()
    for number in range(6):
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
        if chance.random() < 0.6:
            before = restored_pages(copies[0], 7)
            settle(copies, place)
            copies = [copies[0], place]
            assert restored_pages(copies[0], 7) == before
            teeth = sum(page % 16 == 0 for page in known)
            assert stored_pages(*copies) == len(known) + teeth


def test_what_is_read_at_once_is_a_stretch_at_most(tmp_path: Path, place: Path) -> None:
    top = make_copy(tmp_path / "0", [run(5, 9000, held=True)], b"", None)
    before = restored_pages(top, 7)
    settle([top], place)
    assert restored_pages(top, 7) == before
    held = [entry.count for entry in PageMap(top / "pagemap-7.img").entries() if not entry.held]
    teeth = sum(page % comb.STRETCH_PAGES == 0 for page in range(5, 5 + 9000))
    assert sum(held) + teeth == 9000
    assert max(held) < comb.STRETCH_PAGES


def test_wiping_settled_memory_takes_none(tmp_path: Path, place: Path) -> None:
    """The mapping may be larger than what is there of it."""
    top = make_copy(tmp_path / "0", [run(10, 20, held=True)], b"", None)
    vma = rpc.encode({1: 12 * PAGE_SIZE, 2: 2**50, 9: WIPE_ON_FORK})
    write(top / "mm-7.img", MM_MAGIC, [rpc.encode({14: vma})])
    settle([top], place)
    wipe(tmp_path, "0")
    pages = restored_pages(top, 7)
    assert [page for page, content in pages.items() if content.strip(b"\0")] == [10, 11]
    assert stored_pages(top, place) == 2
