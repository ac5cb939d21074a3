"""``scripts/fresh-machine`` leaves nothing behind, however it ends.

What takes long, making a Debian, is played by a program that makes a file and waits.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sevfork.deadline import Deadline
from tests.support import REPOSITORY

pytestmark = [
    pytest.mark.machine,
    pytest.mark.skipif(os.geteuid() != 0, reason="a fresh machine needs root"),
]
SCRIPT = REPOSITORY / "scripts/fresh-machine"
MMDEBSTRAP = """#!/bin/sh
for word; do case $word in */root) mkdir -p "$word" && touch "$word/file" ;; esac; done
exec sleep 600
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.fixture
def machine(tmp_path: Path, place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The script at work, in a process group of its own, once the machine's root is there."""
    program = tmp_path / "bin/mmdebstrap"
    program.parent.mkdir()
    program.write_text(MMDEBSTRAP)
    program.chmod(0o755)
    environment = {**os.environ, "TMPDIR": str(place), "PATH": f"{program.parent}:/usr/bin:/bin"}
    # Under nohup it would inherit that SIGHUP is ignored, and no shell can undo that.
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with subprocess.Popen(
        [SCRIPT, "trixie", "true"], env=environment, start_new_session=True
    ) as child:
        signal.signal(signal.SIGHUP, hangup)
        for _ in Deadline.after(20).poll(0.05, "no machine was begun"):
            if list(place.glob("fresh-machine.*/root/file")):
                break
        yield child
        child.kill()


def running(place: Path) -> list[str]:
    """Command lines of the processes that speak of the place."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended while we looked
        if str(place) in line:
            found.append(line)
    return found


def wait_until_nothing_is_left(place: Path) -> None:
    for _ in Deadline.after(20).poll(0.05, f"left: {running(place)}, {list(place.iterdir())}"):
        if not running(place) and not list(place.iterdir()):
            return


@pytest.mark.parametrize(
    ("by", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGKILL, -9)]
)
def test_a_script_that_is_ended_leaves_nothing(
    machine: subprocess.Popen[bytes], place: Path, by: signal.Signals, exit_code: int
) -> None:
    assert running(place)
    machine.send_signal(by)
    assert machine.wait(20) == exit_code
    wait_until_nothing_is_left(place)


def test_a_process_group_that_is_killed_leaves_nothing(
    machine: subprocess.Popen[bytes], place: Path
) -> None:
    os.killpg(machine.pid, signal.SIGKILL)
    machine.wait(20)
    wait_until_nothing_is_left(place)


def test_a_debian_that_is_not_supported_is_a_usage_error(place: Path) -> None:
    done = subprocess.run([SCRIPT, "buster"], capture_output=True, check=False, timeout=20)
    assert done.returncode == 2
    assert b"bookworm|trixie" in done.stderr
