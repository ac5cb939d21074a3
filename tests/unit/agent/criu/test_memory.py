"""Whether a copy fits, from the kernel's own figures."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from sevfork.agent.criu import memory
from sevfork.agent.criu.memory import (
    MemoryGuard,
    require_memory,
    require_room_in_child,
    require_window,
    resident_bytes,
)
from sevfork.errors import RefusedByGuest

MIB = 2**20


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "PROC", tmp_path)
    return tmp_path


def available(proc: Path, mib: int) -> None:
    (proc / "meminfo").write_text(
        f"MemTotal: 999999 kB\nMemFree: 1 kB\nMemAvailable: {mib * 1024} kB\n"
    )


def test_private_memory_counts_for_each_process_and_shared_memory_once(proc: Path) -> None:
    for pid, anonymous in (("7", 300), ("8", 100)):
        (proc / pid).mkdir()
        (proc / pid / "smaps_rollup").write_text(
            f"Rss: 9000 kB\nPss: 800 kB\nPss_Anon: 1 kB\nPss_Shmem:      50 kB\n"
            f"Anonymous:     {anonymous} kB\nLazyFree: 3 kB\n"
        )
    assert resident_bytes(["7", "8", "9 which has ended"]) == 500 * 1024


@pytest.mark.own_processes
def test_the_kernel_has_these_figures() -> None:
    script = "x = bytearray(b'x') * 40 * 2**20; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert 40 * MIB < resident_bytes([str(child.pid)]) < 80 * MIB
        child.communicate(b"\n")
    require_memory(0)


def test_a_small_workload_must_fit_once_more_and_leave_a_reserve(proc: Path) -> None:
    available(proc, 30)
    require_memory(3 * MIB)
    with pytest.raises(RefusedByGuest, match="too little memory") as caught:
        require_memory(5 * MIB)
    assert "more memory" in (caught.value.hint or "")


def test_a_large_workload_needs_its_window_and_the_pipes_for_its_pages(proc: Path) -> None:
    available(proc, 34 + 640 // 64)
    require_memory(640 * MIB)
    available(proc, 34 + 640 // 64 - 1)
    with pytest.raises(RefusedByGuest, match="44 MiB have to be free in it, and 43 are"):
        require_memory(640 * MIB)


def test_a_later_copy_needs_the_window_and_the_reserve(proc: Path) -> None:
    available(proc, 24)
    require_window(640 * MIB)
    available(proc, 23)
    require_window(7 * MIB)
    with pytest.raises(RefusedByGuest, match="too little memory"):
        require_window(640 * MIB)


def test_a_child_must_have_room_for_all_copies_at_once(proc: Path) -> None:
    available(proc, 134)
    require_room_in_child(700 * MIB, held=600 * MIB)
    with pytest.raises(RefusedByGuest, match="hold 701 MiB at once, and has room for 700"):
        require_room_in_child(701 * MIB, held=600 * MIB)


def test_memory_is_short_when_only_the_reserve_is_left(proc: Path) -> None:
    available(proc, 17)
    assert memory.spare_bytes() == MIB
    available(proc, 15)
    assert memory.spare_bytes() == -MIB


def write_20_mib(guard: MemoryGuard) -> None:
    for _ in range(20):
        guard.write(bytes(MIB))


def test_what_is_put_aside_stops_before_memory_runs_out(proc: Path) -> None:
    available(proc, 100)
    sink = io.BytesIO()
    guard = MemoryGuard(sink)
    write_20_mib(guard)
    available(proc, 10)
    with pytest.raises(RefusedByGuest, match="too little memory"):
        write_20_mib(guard)
    assert 20 * MIB <= sink.tell() < 22 * MIB
