"""What a process marked wipe-on-fork is zero in the copies that a child is restored from."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from sevfork.agent.criu import rpc
from sevfork.agent.criu.wipe_on_fork import wipe
from sevfork.errors import NotAuthentic, SevforkError

PAGE = 4096
COMMON, MM, PAGEMAP = 0x54564319, 0x57492820, 0x56084025
WIPE_ON_FORK, DONT_DUMP = 1 << 18, 1 << 16
IN_PARENT, PRESENT = 1, 4


def image(magic: int, *messages: bytes) -> bytes:
    parts = (struct.pack("<I", len(message)) + message for message in messages)
    return struct.pack("<II", COMMON, magic) + b"".join(parts)


def mm(*mappings: tuple[int, int, int]) -> bytes:
    """Mappings by first page, page after the last, and advice."""
    vmas = [
        rpc.encode({1: first * PAGE, 2: end * PAGE, 9: advice}) for first, end, advice in mappings
    ]
    message = rpc.encode({1: 7}) + b"".join(rpc.encode({14: vma}) for vma in vmas)
    return image(MM, message)


def copy(directory: Path, *entries: tuple[int, int, int], pid: int = 7, pages_id: int = 1) -> Path:
    """A copy of one process's memory: entries by first page, count, flags; each byte is 0xff."""
    directory.mkdir(exist_ok=True)
    described = [rpc.encode({1: page * PAGE, 2: count, 4: flags}) for page, count, flags in entries]
    content = image(PAGEMAP, rpc.encode({1: pages_id}), *described)
    (directory / f"pagemap-{pid}.img").write_bytes(content)
    held = sum(count for _, count, flags in entries if flags & PRESENT)
    pages = directory / f"pages-{pages_id}.img"
    pages.write_bytes(b"\xff" * held * PAGE)
    return pages


def zero_pages(pages: Path) -> list[int]:
    data = pages.read_bytes()
    starts = range(0, len(data), PAGE)
    return [at // PAGE for at in starts if data[at : at + PAGE] == bytes(PAGE)]


def test_only_the_marked_pages_are_zero(tmp_path: Path) -> None:
    pages = copy(tmp_path / "last", (10, 4, PRESENT), (30, 3, PRESENT))
    (tmp_path / "last" / "mm-7.img").write_bytes(mm((10, 12, DONT_DUMP), (31, 32, WIPE_ON_FORK)))
    assert wipe(tmp_path, "last") == PAGE
    assert zero_pages(pages) == [5]
    assert pages.stat().st_size == 7 * PAGE


def test_a_marked_range_over_several_entries_is_wiped_in_each(tmp_path: Path) -> None:
    pages = copy(tmp_path / "last", (10, 2, PRESENT), (12, 2, PRESENT))
    (tmp_path / "last" / "mm-7.img").write_bytes(mm((11, 13, WIPE_ON_FORK)))
    assert wipe(tmp_path, "last") == 2 * PAGE
    assert zero_pages(pages) == [1, 2]


def test_what_an_earlier_copy_holds_is_wiped_there(tmp_path: Path) -> None:
    earlier = copy(tmp_path / "0", (10, 3, PRESENT))
    pages = copy(tmp_path / "last", (10, 2, IN_PARENT), (12, 1, PRESENT))
    (tmp_path / "last" / "mm-7.img").write_bytes(mm((10, 13, WIPE_ON_FORK)))
    wipe(tmp_path, "last")
    assert zero_pages(earlier) == [0, 1, 2]
    assert zero_pages(pages) == [0]


def test_another_process_at_the_same_addresses_keeps_its_pages(tmp_path: Path) -> None:
    mine = copy(tmp_path / "last", (10, 1, PRESENT))
    its = copy(tmp_path / "last", (10, 1, PRESENT), pid=8, pages_id=2)
    (tmp_path / "last" / "mm-7.img").write_bytes(mm((10, 11, WIPE_ON_FORK)))
    (tmp_path / "last" / "mm-8.img").write_bytes(mm((10, 11, DONT_DUMP)))
    wipe(tmp_path, "last")
    assert zero_pages(mine) == [0]
    assert zero_pages(its) == []


def test_the_wide_count_of_pages_wins(tmp_path: Path) -> None:
    directory = tmp_path / "last"
    pages = copy(directory, (10, 2, PRESENT))
    entry = rpc.encode({1: 10 * PAGE, 2: 1, 4: PRESENT, 5: 2})
    (directory / "pagemap-7.img").write_bytes(image(PAGEMAP, rpc.encode({1: 1}), entry))
    (directory / "mm-7.img").write_bytes(mm((10, 12, WIPE_ON_FORK)))
    wipe(tmp_path, "last")
    assert zero_pages(pages) == [0, 1]


def test_an_image_of_another_kind_is_refused(tmp_path: Path) -> None:
    copy(tmp_path / "last", (10, 1, PRESENT))
    (tmp_path / "last" / "mm-7.img").write_bytes(image(PAGEMAP, b""))
    with pytest.raises(NotAuthentic, match="another kind"):
        wipe(tmp_path, "last")


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_cut_image_is_refused(tmp_path: Path, cut: int) -> None:
    copy(tmp_path / "last", (10, 1, PRESENT))
    (tmp_path / "last" / "mm-7.img").write_bytes(mm((10, 11, WIPE_ON_FORK))[:-cut])
    with pytest.raises(SevforkError, match="cut short|well formed"):
        wipe(tmp_path, "last")
