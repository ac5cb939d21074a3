"""What stands in the host's log after a command, and that no log is no reason to fail."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sevfork.errors import RefusedByGuest
from sevfork.host import command_record
from sevfork.host.command_record import recorded

pytestmark = pytest.mark.own_processes


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What listens at /dev/log."""
    path = tmp_path / "log"
    monkeypatch.setattr(command_record, "SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        listening.settimeout(5)
        yield listening


def line_of(journal: socket.socket) -> str:
    priority, _, line = journal.recv(4096).decode().partition(": ")
    assert priority == f"<13>sevfork[{os.getpid()}]"
    return line


def test_a_command_leaves_one_line(journal: socket.socket) -> None:
    with recorded("rm", ["web", "web-fork"]):
        pass
    assert line_of(journal) == f"rm web web-fork: done (uid {os.getuid()})"


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (RefusedByGuest("no"), "exit code 23"),
        (KeyboardInterrupt(), "ended by KeyboardInterrupt"),
        (ValueError("secret"), "ended by ValueError"),
    ],
)
def test_it_says_how_a_command_has_ended(
    journal: socket.socket, error: BaseException, ended: str
) -> None:
    with pytest.raises(type(error)), recorded("fork", ["web"]):
        raise error
    assert line_of(journal) == f"fork web: {ended} (uid {os.getuid()})"


def test_a_name_makes_no_line_of_its_own_and_none_that_is_too_long(journal: socket.socket) -> None:
    with recorded("rm", ["x\n<13>sevfork[1]: rm web: done\x1b\udc80", "y" * 100_000]):
        pass
    line = line_of(journal)
    assert line.startswith("rm x <13>sevfork[1]: rm web: done ")
    assert len(line) <= 1000


def test_no_log_and_one_that_nobody_reads_fail_no_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("absent", "dead"):
        monkeypatch.setattr(command_record, "SOCKET", tmp_path / name)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as gone:
            gone.bind(str(tmp_path / "dead" if name == "dead" else tmp_path / "other"))
        with recorded("up", ["web"]):
            pass


def test_a_log_that_is_full_is_not_waited_for(
    journal: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_record, "_PATIENCE_S", 0.01)
    queue = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    for _ in range(queue + 10):
        command_record.write("nobody reads this")
    assert line_of(journal) == "nobody reads this"
