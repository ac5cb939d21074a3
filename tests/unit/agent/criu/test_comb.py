"""A combed copy holds what it held, in stretches that CRIU gives back one after the other."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sevfork.agent.criu import comb as combing
from sevfork.agent.criu import rpc
from sevfork.agent.criu.comb import comb
from sevfork.agent.criu.page_maps import PAGE_SIZE, PageMap, PageRun

COMMON, PAGEMAP = 0x54564319, 0x56084025


def make_copy(directory: Path, entries: list[PageRun], tag: bytes, parent: str | None) -> None:
    """A copy of process 7; every page it holds says whose it is and where it belongs."""
    directory.mkdir()
    head = rpc.encode({1: 1})
    (directory / "pagemap-7.img").write_bytes(
        struct.pack("<III", COMMON, PAGEMAP, len(head)) + head
    )
    PageMap(directory / "pagemap-7.img").write(directory, entries)
    held = [page for entry in entries if entry.held for page in pages_of(entry)]
    content = b"".join(tag + page.to_bytes(8, "little") + bytes(PAGE_SIZE - 9) for page in held)
    (directory / "pages-1.img").write_bytes(content)
    if parent:
        (directory / "parent").symlink_to(f"../{parent}")


def pages_of(entry: PageRun) -> range:
    first = entry.address // PAGE_SIZE
    return range(first, first + entry.count)


def restored(directory: Path) -> dict[int, bytes]:
    """What CRIU would restore: each page from the first copy of the chain that holds it."""
    page_map, found, place = PageMap(directory / "pagemap-7.img"), dict[int, bytes](), 0
    below = restored(directory / "parent") if (directory / "parent").exists() else {}
    content = page_map.pages.read_bytes()
    for entry in page_map.entries():
        for page in pages_of(entry):
            if entry.held:
                found[page] = content[place * PAGE_SIZE : (place + 1) * PAGE_SIZE]
                place += 1
            else:
                found[page] = below[page]
    assert place * PAGE_SIZE == len(content)
    return found


def longest_stretch(top: Path) -> int:
    """Pages that lie together in one file and are asked for: what CRIU reads at once."""
    above = {
        page
        for entry in PageMap(top / "pagemap-7.img").entries()
        if entry.held
        for page in pages_of(entry)
    }
    longest = run = 0
    for entry in PageMap(top / "parent" / "pagemap-7.img").entries():
        for page in pages_of(entry) if entry.held else ():
            run = 0 if page in above else run + 1
            longest = max(longest, run)
    return longest


def test_a_large_copy_is_read_in_stretches(tmp_path: Path) -> None:
    make_copy(tmp_path / "last", [PageRun(0x10000, 5000, held=True)], b"L", None)
    before = restored(tmp_path / "last")
    comb([tmp_path / "last"])
    assert restored(tmp_path / "last") == before
    assert longest_stretch(tmp_path / "last") == combing.STRETCH_PAGES - 1


def test_stretches_end_across_mappings_too(tmp_path: Path) -> None:
    entries = [PageRun(n * 0x1000000, 1500, held=True) for n in range(1, 5)]
    make_copy(tmp_path / "last", entries, b"L", None)
    before = restored(tmp_path / "last")
    comb([tmp_path / "last"])
    assert restored(tmp_path / "last") == before
    assert longest_stretch(tmp_path / "last") < combing.STRETCH_PAGES


def test_a_chain_of_copies_restores_as_before(tmp_path: Path) -> None:
    make_copy(tmp_path / "0", [PageRun(0x10000, 60, held=True)], b"0", None)
    make_copy(
        tmp_path / "last",
        [
            PageRun(0x10000, 20, held=False),
            PageRun(0x24000, 10, held=True),
            PageRun(0x2E000, 9, False),
        ],
        b"L",
        "0",
    )
    before = restored(tmp_path / "last")
    comb([tmp_path / "last", tmp_path / "0"])
    assert restored(tmp_path / "last") == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(shape=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.booleans()), min_size=1))
def test_any_map_restores_as_before(
    tmp_path_factory: pytest.TempPathFactory,
    shape: list[tuple[int, int, bool]],
) -> None:
    images = tmp_path_factory.mktemp("images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(combing, "STRETCH_PAGES", 4)
        address, entries = 0x10000, []
        for gap, count, held in shape:
            entries.append(PageRun(address, count, held))
            address += (count + gap) * PAGE_SIZE
        make_copy(
            images / "0", [PageRun(e.address, e.count, held=True) for e in entries], b"0", None
        )
        make_copy(images / "last", entries, b"L", "0")
        before = restored(images / "last")
        comb([images / "last", images / "0"])
        assert restored(images / "last") == before
        assert longest_stretch(images / "last") < 4
