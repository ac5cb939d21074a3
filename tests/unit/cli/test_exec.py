"""``sevfork exec``: streams, the end, and what is refused while a command runs."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from msgspec.structs import replace

from sevfork.agent.agent import Agent
from sevfork.agent.container import adopt, session
from sevfork.agent.container.adopt import Ended
from sevfork.agent.measured import Measured
from sevfork.cli import main as command
from sevfork.cli.options import App
from sevfork.errors import RefusedByGuest, TimedOut, WrongState
from sevfork.handshake import InstanceKey
from sevfork.host import connection_choice
from sevfork.lifecycle import inside
from sevfork.wire import protocol
from tests.support.fake_guests import FakeGuest, FakeHouse

PID = 4711
Program = Callable[[Sequence[str], int, int, int], int]


@dataclass
class Commands:
    """What runs inside: a program on a thread of its own, with real pipes."""

    program: Program
    ended: Ended | None = None
    killed: bool = False
    reaped: bool = False
    threads: list[threading.Thread] = field(default_factory=list)

    def begin(self, argv: Sequence[str], streams: tuple[int, int, int]) -> int:
        own = [os.dup(stream) for stream in streams]
        self.ended = None
        thread = threading.Thread(target=self._run, args=(argv, own), daemon=True)
        self.threads.append(thread)
        thread.start()
        return PID

    def _run(self, argv: Sequence[str], streams: list[int]) -> None:
        try:
            returncode = self.program(argv, *streams)
        finally:
            for stream in streams:
                os.close(stream)
        self.ended = Ended(returncode)

    def end(self, pid: int) -> None:
        assert pid == PID
        self.killed, self.reaped = self.ended is None, True


@pytest.fixture(autouse=True)
def _connected(monkeypatch: pytest.MonkeyPatch, house: FakeHouse) -> None:
    monkeypatch.setattr(command, "handle_signals", lambda _app: None)
    monkeypatch.setattr(connection_choice, "connect", lambda _uri, _note: house)
    monkeypatch.setattr(inside, "_LEAVE_S", 0.001)
    monkeypatch.setattr(session, "_WAIT_S", 0.01)
    house.measured = let_in(house, "host")


def let_in(house: FakeHouse, word: Literal["host", "never"]) -> Measured:
    workload = replace(house.measured.workload, exec=word)
    return replace(house.measured, workload=workload)


@pytest.fixture
def run(parent: FakeGuest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Program], Commands]:
    def program(made: Program) -> Commands:
        commands = Commands(made)
        monkeypatch.setattr(adopt, "look", lambda _pid: commands.ended)
        monkeypatch.setattr(adopt, "end", commands.end)
        parent.on_begin = commands.begin
        return commands

    return program


Run = Callable[[Program], Commands]


def sevfork(*arguments: str) -> int:
    return command.run(App(), ["exec", *arguments])


def say(argv: Sequence[str], _stdin: int, out: int, err: int) -> int:
    os.write(out, " ".join(argv).encode())
    os.write(err, b"\x1berror\n")
    return 3


def test_streams_and_status_are_the_commands(
    run: Run, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    run(say)
    assert sevfork("web", "--", "/bin/ls", "-la") == 3
    printed = capfdbinary.readouterr()
    assert (printed.out, printed.err) == (b"/bin/ls -la", b"\x1berror\n")


def test_a_signal_is_told_as_a_shell_does(run: Run) -> None:
    run(lambda *_: -11)
    assert sevfork("web", "--", "/bin/crash") == 139


def test_input_goes_in_and_much_comes_out(
    run: Run,
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def cat(_argv: Sequence[str], stdin: int, out: int, _err: int) -> int:
        while data := os.read(stdin, 5000):
            os.write(out, data)
        return 0

    run(cat)
    content = os.urandom(300_000)
    (tmp_path / "input").write_bytes(content)
    with (tmp_path / "input").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert sevfork("web", "-i", "--", "/bin/cat") == 0
    assert capfdbinary.readouterr().out == content


def test_without_i_there_is_no_input(run: Run, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    def read(_argv: Sequence[str], stdin: int, out: int, _err: int) -> int:
        os.write(out, b"end" if os.read(stdin, 10) == b"" else b"input")
        return 0

    run(read)
    assert sevfork("web", "--", "/bin/cat") == 0
    assert capfdbinary.readouterr().out == b"end"


@pytest.fixture
def endless(run: Run) -> Iterator[Commands]:
    over = threading.Event()

    def sleep(*_: object) -> int:
        over.wait(20)
        return 0

    yield (commands := run(sleep))
    over.set()
    for thread in commands.threads:
        thread.join()


def test_a_command_that_takes_too_long_is_ended(endless: Commands) -> None:
    assert sevfork("web", "--timeout", "0.2", "--", "/bin/sleep", "100") == 30
    assert endless.killed


def ask(parent: FakeGuest, request: protocol.Request) -> protocol.Reply:
    return parent.agent.handle(request, lambda *_: None)


START = protocol.ExecStart(["/bin/sleep", "100"])


def test_no_fork_while_a_command_runs_and_it_says_which(
    endless: Commands, parent: FakeGuest
) -> None:
    ask(parent, START)
    capture = protocol.Capture(bytes(16), "sf-0123456789abcdef")
    snapshot = protocol.UpdateSnapshot("sf-0123456789abcdef")
    for request in (protocol.Reserve(1, warm=False), capture, snapshot):
        with pytest.raises(WrongState, match="inside this VM: /bin/sleep 100"):
            ask(parent, request)
    ask(parent, protocol.ExecEnd())
    assert isinstance(ask(parent, protocol.Reserve(1, warm=False)), protocol.Reserved)


def test_one_command_at_a_time(endless: Commands, parent: FakeGuest) -> None:
    ask(parent, START)
    with pytest.raises(RefusedByGuest, match="another command"):
        ask(parent, START)


def test_a_command_that_nobody_asks_for_is_ended(
    endless: Commands, parent: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_UNASKED_S", 0.05)
    ask(parent, START)
    time.sleep(0.1)
    parent.agent.forget_expired()
    assert endless.killed
    with pytest.raises(RefusedByGuest, match="was ended"):
        ask(parent, protocol.ExecExchange(b"", close=False))


def test_a_workloads_end_is_known_though_a_command_ran_beside_it(
    run: Run, parent: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel lets a first process go when all others of its container are reaped."""
    commands = run(lambda *_: -9)
    ask(parent, START)
    commands.threads[0].join()
    ended = parent.ended

    def known() -> Ended:
        if not commands.reaped:
            raise TimedOut("its first process has not ended")
        return ended()

    monkeypatch.setattr(parent, "ended", known)
    parent.end(3)
    life = ask(parent, protocol.Events())
    assert isinstance(life, protocol.Life)
    assert life.events[-1] == protocol.Happened(protocol.LifeEvent.EXITED, 3)


def test_an_image_that_lets_nobody_in(house: FakeHouse, parent: FakeGuest) -> None:
    agent = Agent(let_in(house, "never"), InstanceKey(), parent, parent, parent.engine, parent)
    parent.agent = agent
    for request in (START, protocol.ExecExchange(b"", close=False), protocol.ExecEnd()):
        with pytest.raises(RefusedByGuest, match="lets nobody"):
            ask(parent, request)


def test_a_command_that_cannot_be_run(
    parent: FakeGuest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevfork("web", "--", "/bin/nonsuch") == 23
    assert "'/bin/nonsuch' cannot be run" in capsys.readouterr().err


def test_a_command_line_that_is_too_long(parent: FakeGuest) -> None:
    assert sevfork("web", "--", "/bin/echo", "x" * 20_000) == 2


def test_a_terminal_is_not_driven(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run(say)
    assert sevfork("web", "--", "/bin/ls") == 3
    assert terminal.getvalue() == " error\n"
