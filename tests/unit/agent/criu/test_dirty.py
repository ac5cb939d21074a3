"""The kernel's answers about written memory are added up."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from sevfork.agent.criu import dirty
from sevfork.agent.criu.dirty import dirty_bytes

PAGE = 4096
PLACES = [
    "size",
    "flags",
    "start",
    "end",
    "walk_end",
    "vec",
    "vec_len",
    "max",
    "inverted",
    "mask",
    "any_of",
    "answer",
]


class Kernel:
    """PAGEMAP_SCAN as proc_pid_pagemap(5) has it; runs are (first page, pages)."""

    def __init__(self, runs: list[tuple[int, int]], at_once: int = 2) -> None:
        self.runs, self.at_once, self.asked = runs, at_once, 0

    def ioctl(self, _: int, request: int, argument: ctypes.Structure) -> int:
        self.asked += 1
        words = (ctypes.c_uint64 * 12).from_buffer(argument)
        ask = dict(zip(PLACES, words, strict=True))
        assert (request, ask["size"]) == (0xC0606610, 96)
        assert (ask["mask"], ask["inverted"]) == (1 << 7 | 1 << 2, 1 << 2)
        runs = [run for run in self.runs if run[0] * PAGE >= ask["start"]]
        regions = (ctypes.c_uint64 * (3 * ask["vec_len"])).from_address(ask["vec"])
        for number, (first, count) in enumerate(runs[: self.at_once]):
            regions[3 * number : 3 * number + 3] = [first * PAGE, (first + count) * PAGE, 1 << 7]
        done = len(runs) <= self.at_once
        words[4] = ask["end"] if done else sum(runs[self.at_once - 1]) * PAGE
        return min(len(runs), self.at_once)


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(dirty, "PROC", tmp_path)
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "pagemap").touch()
    return tmp_path


def test_all_regions_count(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel([(10, 1), (12, 5), (100, 7), (2**30, 3), (2**31, 1)])
    monkeypatch.setattr("fcntl.ioctl", kernel.ioctl)
    assert dirty_bytes("7", 2**40) == 17 * PAGE
    assert kernel.asked == 3


def test_nothing_is_counted_beyond_what_is_enough(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel([(n * 10, 5) for n in range(1000)])
    monkeypatch.setattr("fcntl.ioctl", kernel.ioctl)
    assert 40 * PAGE <= dirty_bytes("7", 40 * PAGE) < 60 * PAGE


def test_a_process_that_is_gone_has_written_nothing(proc: Path) -> None:
    assert dirty_bytes("8", 1) == 0


def test_a_kernel_that_does_not_tell_is_an_error(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> int:
        raise OSError(25, os.strerror(25))

    monkeypatch.setattr("fcntl.ioctl", unknown)
    with pytest.raises(OSError, match="ioctl"):
        dirty_bytes("7", 1)
