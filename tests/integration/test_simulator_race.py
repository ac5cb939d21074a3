"""Processes that make the simulated processor at the same time all end up with the same one."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

from sevfork.process import spawn

_MAKE = (
    "import sys; from pathlib import Path;"
    "from sevfork.simulated.processor import SimulatedProcessor;"
    "print(SimulatedProcessor.load_or_create(Path(sys.argv[1])).root_fingerprint)"
)


def test_processes_that_race_get_the_same_processor(tmp_path: Path) -> None:
    directory, answers = tmp_path / "simulator", [tmp_path / str(number) for number in range(3)]
    with ExitStack() as stack:
        argv = [sys.executable, "-c", _MAKE, os.fspath(directory)]
        files = [stack.enter_context(answer.open("wb")) for answer in answers]
        running = [stack.enter_context(spawn(argv, stdout=file)) for file in files]
        assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    assert len({answer.read_text() for answer in answers}) == 1
    assert [path.name for path in directory.iterdir()] == ["simulated-processor.pem"]
