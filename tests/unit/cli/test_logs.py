"""``sevfork logs``: what it shows, raw or made harmless, and of whom it believes nothing."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from sevfork.agent.serve import OnProgress
from sevfork.cli import main as command
from sevfork.cli.options import App
from sevfork.errors import RefusedByGuest
from sevfork.handshake import InstanceKey, owner_session
from sevfork.host import connection_choice
from sevfork.image.image import Image
from sevfork.lifecycle import logs
from sevfork.lifecycle.fork import ForkRequest, plan_fork, run_fork
from sevfork.owner import key_file, passphrase
from sevfork.owner.key_file import PrivateKey
from sevfork.wire import protocol
from tests.support.fake_guests import FakeGuest, FakeHouse
from tests.support.image_factory import write_image
from tests.support.jobs import job_on
from tests.support.owners import OWNER, adopted_root

WORDS = b"one\n\x1b[2Jtwo\n\xffthree\n"


@pytest.fixture(autouse=True)
def _connected(monkeypatch: pytest.MonkeyPatch, house: FakeHouse) -> None:
    monkeypatch.setattr(command, "handle_signals", lambda _app: None)
    monkeypatch.setattr(connection_choice, "connect", lambda _uri, _note: house)
    monkeypatch.setattr(logs, "_FOLLOW_S", 0.01)


@pytest.fixture
def printer(parent: FakeGuest) -> FakeGuest:
    parent.output.add(WORDS)
    return parent


def sevfork(*arguments: str) -> int:
    return command.run(App(), ["logs", *arguments])


def test_off_a_terminal_it_is_as_it_was_printed(
    printer: FakeGuest, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert sevfork("web") == 0
    assert capfdbinary.readouterr().out == WORDS


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_not_driven(printer: FakeGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert sevfork("web") == 0
    assert terminal.getvalue() == "one\n [2Jtwo\n\ufffdthree\n"


@pytest.mark.parametrize(("count", "start"), [(0, len(WORDS)), (1, 12), (2, 4), (99, 0)])
def test_the_last_lines(
    printer: FakeGuest, capfdbinary: pytest.CaptureFixture[bytes], count: int, start: int
) -> None:
    assert sevfork("web", "--tail", str(count)) == 0
    assert capfdbinary.readouterr().out == WORDS[start:]


def test_it_is_followed_to_the_workloads_end(
    printer: FakeGuest, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[int] = []

    def read(offset: int, limit: int, read: Callable[..., object] = printer.output.read) -> object:
        answered.append(offset)
        piece = read(offset, limit)
        if len(answered) == 2:
            printer.output.add(b"last\n")
            printer.end(0)
        return piece

    monkeypatch.setattr(printer, "read_output", read)
    assert sevfork("web", "-f", "--tail", "1") == 0
    assert capfdbinary.readouterr().out == b"\xffthree\nlast\n"
    assert answered[0] == 0


def test_json_says_what_is_lost(printer: FakeGuest, capsys: pytest.CaptureFixture[str]) -> None:
    printer.output.add(b"x" * (1 << 20))
    assert sevfork("web", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["text"] == "x" * (1 << 20)
    assert told["end_bytes"] == (1 << 20) + len(WORDS)
    assert told["lost_bytes"] == len(WORDS)


@pytest.mark.parametrize(
    "answer",
    [
        protocol.Logs(0, b"", 5),
        protocol.Logs(3, b"xxx", 5),
    ],
    ids=["nothing of something", "beyond the end"],
)
def test_a_guest_that_says_the_impossible(
    printer: FakeGuest, monkeypatch: pytest.MonkeyPatch, answer: protocol.Logs
) -> None:
    monkeypatch.setattr(printer, "read_output", lambda *_: answer)
    assert sevfork("web") == 22


def test_a_guest_with_words_without_end_is_not_listened_to_for_ever(
    printer: FakeGuest, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def endless(offset: int, limit: int) -> protocol.Logs:
        return protocol.Logs(offset, b"y" * limit, 2**52)

    monkeypatch.setattr(printer, "read_output", endless)
    monkeypatch.setattr(logs, "_LIMIT_BYTES", 1 << 18)
    assert sevfork("web") == 0
    assert len(capfdbinary.readouterr().out) == 1 << 18


class Owned:
    """A family whose words are their owner's, with the owner's and a stranger's key in files."""

    def __init__(self, house: FakeHouse, folder: Path) -> None:
        workload = replace(house.measured.workload, logs="guest")
        house.measured = replace(house.measured, workload=workload)
        adopted_root(house, Image.load(write_image(folder / "image")))
        run_fork(job_on(house), plan_fork(house, ForkRequest("web")))
        self.guests = {name: house.guests[house.find(name).uuid] for name in ("web", "web-fork")}
        for name, guest in self.guests.items():
            guest.output.add(f"words of {name}\n".encode())
        for name, key in (("owner", OWNER), ("stranger", PrivateKey.generate())):
            (folder / name).write_bytes(key.encrypted(b"secret"))


@pytest.fixture
def owned(house: FakeHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Owned:
    monkeypatch.setattr(key_file, "_BCRYPT_ROUNDS", 1)
    monkeypatch.setenv(passphrase.VARIABLE, "secret")
    monkeypatch.chdir(tmp_path)
    return Owned(house, tmp_path)


BY_OWNER = ("--allow-simulated", "--owner-key")


@pytest.mark.parametrize("name", ["web", "web-fork"])
def test_the_owner_reads_what_the_host_may_not(
    owned: Owned, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    assert sevfork(name) == 23
    refused = capfd.readouterr()
    assert f"sevfork logs {name} --owner-key FILE" in refused.err
    assert sevfork(name, *BY_OWNER, "owner") == 0
    assert capfd.readouterr().out == f"words of {name}\n"


def test_a_stranger_reads_nothing(owned: Owned, capfd: pytest.CaptureFixture[str]) -> None:
    assert sevfork("web", *BY_OWNER, "stranger") == 22
    assert capfd.readouterr().out == ""


def test_a_guest_of_another_key_that_answers_in_its_place(
    owned: Owned, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A host relays the question to a VM of its own."""
    agent, impostor = owned.guests["web"].agent, InstanceKey()
    handle = agent.handle

    def relay(request: protocol.Request, progress: OnProgress) -> protocol.Reply:
        if isinstance(request, protocol.OwnerAsks):
            reply = protocol.encode(protocol.Logs(0, b"lies", 4))
            return protocol.OwnerTold(owner_session.answer(request.question, reply, impostor))
        return handle(request, progress)

    monkeypatch.setattr(agent, "handle", relay)
    assert sevfork("web", *BY_OWNER, "owner") == 22
    assert capfd.readouterr().out == ""


def test_an_owner_asks_for_nothing_else(owned: Owned) -> None:
    agent = owned.guests["web"].agent
    status = agent.handle(protocol.GetStatus(), lambda *_: None)
    assert isinstance(status, protocol.Status)
    request = protocol.encode(protocol.ShutDown())
    asked = owner_session.Asked(OWNER, status.instance_key, request)
    with pytest.raises(RefusedByGuest, match="nothing else"):
        agent.handle(protocol.OwnerAsks(asked.question), lambda *_: None)
