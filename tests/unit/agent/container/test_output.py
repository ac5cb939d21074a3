"""What is kept of what a workload prints: the last of it, at its place, for a child as well."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from sevfork import process
from sevfork.agent.container import output
from sevfork.agent.container.output import LAST_BYTES, LAST_LINES, Output, Piece, Tail
from sevfork.errors import NotAuthentic


@pytest.fixture
def tail() -> Tail:
    """Of ten bytes, after twelve."""
    tail = Tail(kept_bytes=10)
    tail.add(b"abcdefgh")
    tail.add(b"ijkl")
    return tail


@pytest.mark.parametrize(
    ("offset", "limit", "piece"),
    [
        (0, 100, Piece(2, b"cdefghijkl", 12)),
        (5, 3, Piece(5, b"fgh", 12)),
        (12, 3, Piece(12, b"", 12)),
        (50, 3, Piece(12, b"", 12)),
        (-4, 3, Piece(8, b"ijk", 12)),
        (-400, 3, Piece(2, b"cde", 12)),
    ],
)
def test_it_is_read_from_anywhere(tail: Tail, offset: int, limit: int, piece: Piece) -> None:
    assert tail.read(offset, limit) == piece


def test_more_than_is_kept_at_once() -> None:
    tail = Tail(kept_bytes=10)
    tail.add(b"x" * 600 + b"0123456789")
    assert tail.read(0, 100) == Piece(600, b"0123456789", 610)


def test_a_child_goes_on_where_its_parent_was_frozen(tail: Tail) -> None:
    state = tail.until(10)
    child = Tail(kept_bytes=10)
    child.resume(state)
    assert child.read(0, 100) == Piece(2, b"cdefghij", 10)
    child.add(b"KL")
    assert child.read(9, 100) == Piece(9, b"jKL", 12)


def test_a_child_of_a_parent_that_has_printed_very_much_since(tail: Tail) -> None:
    position = tail.end
    tail.add(b"0123456789")
    child = Tail()
    child.resume(tail.until(position))
    assert child.read(0, 100) == Piece(12, b"", 12)


@pytest.mark.parametrize(
    "state",
    [b"", b"\0" * 7, bytes(8) + b"x", bytes([0, 0x20]) + bytes(6), bytes(7) + b"\x0b" + b"x" * 11],
    ids=["nothing", "cut", "before the beginning", "beyond all numbers", "more than is kept"],
)
def test_a_state_that_no_agent_writes_is_refused(state: bytes) -> None:
    with pytest.raises(NotAuthentic):
        Tail(kept_bytes=10).resume(state)


@pytest.fixture
def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Output:
    def keeper(_argv: object, *, stdin: int, stdout: int) -> int:
        assert stat.S_ISFIFO(os.fstat(stdin).st_mode)
        assert stat.S_ISFIFO(os.fstat(stdout).st_mode)
        return os.getpid()

    monkeypatch.setattr(process, "leave_running", keeper)
    return Output(tmp_path / "state")


def reaches(printed: Output, end: int) -> None:
    until = time.monotonic() + 5
    while printed.tail.end < end:
        assert time.monotonic() < until
        time.sleep(0.001)


def test_what_is_written_to_the_pipe_is_kept(printed: Output) -> None:
    assert printed.name == f"pipe:[{os.fstat(printed.writing).st_ino}]"
    os.write(printed.writing, b"words\n")
    assert printed.position() == 6, "in the pipe or read already"
    reaches(printed, 6)
    assert printed.tail.read(0, 100).data == b"words\n"


def test_who_prints_much_waits_and_nothing_is_lost(printed: Output) -> None:
    for _ in range(300):
        os.write(printed.writing, b"x" * 10_000)
    reaches(printed, 3_000_000)
    piece = printed.tail.read(0, 2**30)
    assert (piece.start, piece.end) == (3_000_000 - output.KEPT_BYTES, 3_000_000)


def test_any_user_may_open_the_streams_anew(printed: Output) -> None:
    assert stat.S_IMODE(os.fstat(printed.writing).st_mode) == 0o666
    with Path(f"/proc/self/fd/{printed.writing}").open("w") as again:
        again.write("again")
    reaches(printed, 5)


def test_last_lines_are_few_and_short(printed: Output) -> None:
    os.write(printed.writing, b"".join(b"line %d\n" % number for number in range(100)))
    lines = printed.last_lines().splitlines()
    assert lines == [f"line {number}" for number in range(100 - LAST_LINES, 100)]
    os.write(printed.writing, b"\xff" * 10_000)
    assert len(printed.last_lines()) <= LAST_BYTES


def test_last_lines_of_a_command_are_not_those_from_before(printed: Output) -> None:
    os.write(printed.writing, b"of the workload\n")
    before = printed.position()
    os.write(printed.writing, b"of the hook\n")
    assert printed.last_lines(before) == "of the hook"


def test_a_later_agent_finds_the_pipe(
    printed: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = tmp_path / "ends"
    ends.mkdir()
    for number, end in enumerate((printed.reading, printed.writing)):
        (ends / str(number)).symlink_to(f"/proc/self/fd/{end}")
    monkeypatch.setattr(output, "keepers_ends", lambda _pid: ends)
    later = Output(tmp_path / "state")
    assert later.name == printed.name
