"""Pages go out while they are written; who writes them waits, and memory comes back."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sevfork.agent.container.archive import Packer
from sevfork.agent.container.unpacker import Unpacker
from sevfork.agent.criu import outflow as outflow_module
from sevfork.agent.criu.outflow import Outflow
from sevfork.errors import HostCannot
from tests.support.stored import stored_bytes

MIB = 1 << 20
PLENTY = 4 * MIB  # not more, so that a frozen writer, which waits for looks, waits 2 ms for each
PREFIX = "images/0/"


@dataclass
class Writer:
    """Writes a pages file as CRIU does, a MiB at a time; stands still while it is held.

    After each it waits until the outflow has looked, so that no test depends on who is faster.
    """

    path: Path
    content: bytes
    largest_bytes: int = 0
    looks: int = 0
    holds: list[bool] = field(default_factory=list)
    _free: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._free.set()

    def hold(self, stopped: bool) -> None:
        self.holds.append(stopped)
        if stopped:
            self._free.clear()
        else:
            self._free.set()

    def write(self) -> None:
        with self.path.open("wb", buffering=0) as file:
            for start in range(0, len(self.content), MIB):
                assert self._free.wait(60), "it was never let go on"
                file.write(self.content[start : start + MIB])
                held = self.path.stat().st_blocks * 512
                self.largest_bytes = max(self.largest_bytes, held)
                before = self.looks
                while self.looks < before + 2:
                    time.sleep(0.0005)


@pytest.fixture(scope="module")
def _content() -> bytes:
    return os.urandom(80 * MIB + 5)


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _content: bytes) -> Writer:
    monkeypatch.setattr(outflow_module, "_POLL_S", 0.0005)
    (tmp_path / "copy").mkdir()
    return Writer(tmp_path / "copy" / "pages-1.img", _content)


def outflow(
    writer: Writer,
    sink: io.BytesIO,
    *,
    frozen: bool = False,
    spare: Callable[[], int] = lambda: PLENTY,
) -> Outflow:
    def looked() -> int:
        writer.looks += 1
        return spare()

    return Outflow(Packer(sink), writer.path.parent, PREFIX, writer.hold, looked, frozen)


def unpacked(sink: io.BytesIO, place: Path) -> bytes:
    for name in ("images", "files"):
        (place / name).mkdir()
    Packer(sink).end()
    Unpacker(place / "images", place / "files").read(io.BytesIO(sink.getvalue()))
    return (place / "images" / "0" / "pages-1.img").read_bytes()


def test_what_is_written_goes_out_and_is_given_back(writer: Writer, tmp_path: Path) -> None:
    sink = io.BytesIO()
    with outflow(writer, sink) as flow:
        writer.write()
    assert flow.finish() == len(writer.content)
    assert writer.largest_bytes < 8 * MIB
    assert stored_bytes(writer.path) == 0
    assert unpacked(sink, tmp_path) == writer.content


def test_nothing_is_sent_and_nobody_held_while_all_is_frozen(
    writer: Writer, tmp_path: Path
) -> None:
    sink = io.BytesIO()
    with outflow(writer, sink, frozen=True) as flow:
        writer.write()
        assert sink.getvalue() == b""
    assert writer.holds == []
    assert flow.finish() == len(writer.content)
    assert unpacked(sink, tmp_path) == writer.content


def test_a_copy_keeps_little_back_where_memory_is_short(writer: Writer) -> None:
    writer.path.write_bytes(writer.content[: 3 * MIB])
    with outflow(writer, io.BytesIO(), spare=lambda: -1):
        while writer.looks < 2:
            time.sleep(0.001)
    assert writer.holds == [True, False]


def test_a_frozen_workload_waits_where_memory_is_short(writer: Writer, tmp_path: Path) -> None:
    sink = io.BytesIO()

    def spare() -> int:
        return 20 * MIB - (writer.path.stat().st_blocks * 512 if writer.path.exists() else 0)

    with outflow(writer, sink, frozen=True, spare=spare) as flow:
        writer.write()
    flow.finish()
    assert True in writer.holds
    assert writer.largest_bytes < 32 * MIB
    assert unpacked(sink, tmp_path) == writer.content


def test_a_sink_that_fails_holds_nobody_and_is_told_at_the_end(writer: Writer) -> None:
    class Full(io.BytesIO):
        def write(self, data: bytes, /) -> int:  # type: ignore[override]  # bytes are enough
            if self.tell() > 10 * MIB:
                raise HostCannot("the volume is full")
            return super().write(data)

    with outflow(writer, Full()) as flow:
        writer.write()
    with pytest.raises(HostCannot, match="volume is full"):
        flow.finish()
    assert writer.holds.count(True) == writer.holds.count(False)
    assert writer.path.stat().st_blocks * 512 < 48 * MIB


def test_a_writer_that_is_too_far_ahead_is_held_until_the_block_ends(writer: Writer) -> None:
    writer.path.write_bytes(writer.content)
    with outflow(writer, io.BytesIO()):
        while True not in writer.holds:
            time.sleep(0.001)
    assert writer.holds == [True, False]
