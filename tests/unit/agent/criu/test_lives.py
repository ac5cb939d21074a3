"""A process that has become another is not taken for the one that was copied."""

from __future__ import annotations

from pathlib import Path

import pytest

from sevfork.agent.criu import lives
from sevfork.agent.criu.lives import Life, forget_strangers, lives_of
from sevfork.errors import SevforkError


@pytest.fixture(autouse=True)
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lives, "PROC", tmp_path)
    return tmp_path


def process(
    proc: Path,
    pid: int,
    inner: int,
    *,
    start: int = 500,
    auxv: bytes = b"random",
    name: str = "app",
) -> None:
    (proc / str(pid)).mkdir(exist_ok=True)
    numbers = " ".join(["0"] * 18)
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) S {numbers} {start} 0 0\n")
    (proc / str(pid) / "status").write_text(f"Name:\tapp\nPid:\t{pid}\nNSpid:\t{pid}\t{inner}\n")
    (proc / str(pid) / "auxv").write_bytes(auxv)


def test_processes_are_known_by_their_numbers_in_the_container(proc: Path) -> None:
    process(proc, 300, 1)
    process(proc, 301, 7)
    assert sorted(lives_of(["300", "301"])) == ["1", "7"]


def test_another_start_or_another_program_is_another_life(proc: Path) -> None:
    seen = set()
    for start, auxv in ((500, b"a"), (501, b"a"), (500, b"b")):
        process(proc, 300, 1, start=start, auxv=auxv)
        seen.add(lives_of(["300"])["1"])
    assert len(seen) == 3
    process(proc, 300, 1, start=500, auxv=b"a", name="other) S (name")
    assert lives_of(["300"])["1"] in seen


def test_who_goes_away_is_left_out(proc: Path) -> None:
    process(proc, 300, 1)
    assert sorted(lives_of(["300", "999"])) == ["1"]


def test_a_kernel_that_tells_no_number_is_an_error(proc: Path) -> None:
    process(proc, 300, 1)
    (proc / "300" / "status").write_text("Name:\tapp\n")
    with pytest.raises(SevforkError, match="number in the container"):
        lives_of(["300"])


def test_page_maps_of_strangers_are_forgotten(tmp_path: Path) -> None:
    for number in ("1", "2", "3", "shmem-5"):
        (tmp_path / f"pagemap-{number}.img").touch()
    before = {"1": Life("11", b"same"), "2": Life("12", b"before")}
    now = {"1": Life("11", b"same"), "2": Life("12", b"after"), "3": Life("13", b"was not there")}
    forget_strangers(tmp_path, before, now)
    assert [path.name for path in tmp_path.glob("pagemap-*")] == ["pagemap-1.img"]
