"""Deleted files that were open become links in CRIU's images, and are made with their content."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from sevfork.agent.container.inodes import Name
from sevfork.agent.criu import images
from sevfork.agent.criu.deleted import FILES, REMAPS, name_deleted_files
from sevfork.agent.criu.rpc import Value, blob, decode, encode
from sevfork.errors import NotAuthentic

REMAPS_MAGIC, FILES_MAGIC, GHOST_MAGIC = 0x59133954, 0x56303138, 0x52583605
LINKED, GHOST = 0, 1
REGULAR, DIRECTORY = 0o100640, 0o040755


def message(fields: dict[int, Value]) -> bytes:
    return encode(fields)


def framed(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


@pytest.fixture
def last(tmp_path: Path) -> Path:
    """Two open files that were one deleted file, and one more."""
    files = [message({1: 1, 2: file_id, 3: message({1: file_id})}) for file_id in (4, 9, 7)]
    images.write(tmp_path / FILES, FILES_MAGIC, files)
    remaps = [
        message({1: orig, 2: ghost, 3: GHOST}) for orig, ghost in ((4, 0x1A), (9, 0x1A), (7, 2))
    ]
    images.write(tmp_path / REMAPS, REMAPS_MAGIC, remaps)
    return tmp_path


def write_ghost(last: Path, ghost: int, number: int, rest: bytes, **more: int) -> None:
    fields: dict[int, Value] = {
        1: os.getuid(), 2: os.getgid(), 3: more.get("mode", REGULAR), 5: number,
        7: message({1: 1_700_000_000, 2: 5}), 8: message({1: 1_600_000_000, 2: 250_000}),
    }  # fmt: skip
    if "size" in more:
        fields.update({9: True, 10: more["size"]})
    head = struct.pack("<II", 0x54564319, GHOST_MAGIC)
    (last / f"ghost-file-{ghost:x}.img").write_bytes(head + framed(message(fields)) + rest)


def make(last: Path, tmp_path: Path, name: Name) -> Path:
    maker = name_deleted_files(last)[name]
    (tmp_path / "made").mkdir()
    directory = os.open(tmp_path / "made", os.O_RDONLY)
    try:
        maker(directory, "file")
    finally:
        os.close(directory)
    return tmp_path / "made" / "file"


def test_each_deleted_file_becomes_one_link_that_all_its_users_lead_to(last: Path) -> None:
    write_ghost(last, 0x1A, 67, b"small")
    write_ghost(last, 2, 68, b"other")
    deleted = name_deleted_files(last)
    assert set(deleted) == {Name(67, ".sevfork-deleted-67"), Name(68, ".sevfork-deleted-68")}
    remaps = [decode(m) for m in images.messages((last / REMAPS).read_bytes(), REMAPS_MAGIC)]
    assert remaps == [
        {1: 4, 2: 10, 3: LINKED}, {1: 9, 2: 10, 3: LINKED}, {1: 7, 2: 11, 3: LINKED},
    ]  # fmt: skip
    new = [decode(m) for m in images.messages((last / FILES).read_bytes(), FILES_MAGIC)][3:]
    named = {entry[2]: decode(blob(entry[3]))[6] for entry in new}
    assert named == {10: b"/.sevfork-deleted-67", 11: b"/.sevfork-deleted-68"}


def test_a_small_file_is_made_as_it_was(last: Path, tmp_path: Path) -> None:
    write_ghost(last, 0x1A, 67, b"small")
    write_ghost(last, 2, 68, b"other")
    made = make(last, tmp_path, Name(67, ".sevfork-deleted-67"))
    assert made.read_bytes() == b"small"
    assert made.stat().st_mode == REGULAR
    assert made.stat().st_mtime_ns == 1_600_000_000_250_000_000
    assert not (last / "ghost-file-1a.img").exists()


def test_the_holes_of_a_large_file_stay_holes(last: Path, tmp_path: Path) -> None:
    start, middle = b"a" * 8192, b"b" * 3_000_000
    chunks = [framed(message({1: len(start), 2: 0})), start]
    chunks += [framed(message({1: len(middle), 2: 1 << 30})), middle]
    write_ghost(last, 0x1A, 67, b"".join(chunks), size=2 << 30)
    write_ghost(last, 2, 68, b"other")
    made = make(last, tmp_path, Name(67, ".sevfork-deleted-67"))
    assert made.stat().st_size == 2 << 30
    assert made.stat().st_blocks * 512 < 4_000_000
    with made.open("rb") as file:
        assert file.read(8193) == start + b"\0"
        file.seek(1 << 30)
        assert file.read(len(middle) + 1) == middle + b"\0"


def test_what_cannot_be_linked_is_left_to_criu(last: Path) -> None:
    write_ghost(last, 0x1A, 67, b"", mode=DIRECTORY)
    write_ghost(last, 2, 3, b"the layer's own number")
    before = (last / REMAPS).read_bytes(), (last / FILES).read_bytes()
    assert name_deleted_files(last) == {}
    assert ((last / REMAPS).read_bytes(), (last / FILES).read_bytes()) == before


def test_a_workload_without_deleted_files_has_no_such_image(tmp_path: Path) -> None:
    assert name_deleted_files(tmp_path) == {}


def test_an_image_that_is_cut_short_is_refused(last: Path) -> None:
    write_ghost(last, 0x1A, 67, b"small")
    whole = (last / REMAPS).read_bytes()
    (last / REMAPS).write_bytes(whole[:-1])
    with pytest.raises(NotAuthentic, match="cut short"):
        name_deleted_files(last)
