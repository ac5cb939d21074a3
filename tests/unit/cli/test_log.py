"""``sevfork log``: what it shows of a family, whose word it is, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sevfork.agent.audit import AuditLog
from sevfork.cli import main as command
from sevfork.cli.options import App
from sevfork.errors import RefusedByGuest
from sevfork.handshake import InstanceKey
from sevfork.host import command_record, connection_choice
from sevfork.image.image import Image
from sevfork.lifecycle.fork import ForkRequest, plan_fork, run_fork
from sevfork.wire import protocol
from tests.support import audit_reader
from tests.support.fake_guests import FakeGuest, FakeHouse
from tests.support.image_factory import write_image
from tests.support.jobs import job_on
from tests.support.owners import OWNER_LINE, STRANGER_LINE, adopted_root

SIMULATED = "--allow-simulated"


@pytest.fixture
def family(house: FakeHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHouse:
    """An owner's root, and its child."""
    monkeypatch.setattr(command, "handle_signals", lambda _app: None)
    monkeypatch.setattr(connection_choice, "connect", lambda _uri, _note: house)
    adopted_root(house, Image.load(write_image(tmp_path / "image")))
    run_fork(job_on(house), plan_fork(house, ForkRequest("web")))
    return house


def sevfork(*arguments: str) -> int:
    return command.run(App(), [*arguments])


def guest(house: FakeHouse, name: str) -> FakeGuest:
    return house.guests[house.find(name).uuid]


def test_a_parent_shows_what_it_gave_to_whom(
    family: FakeHouse, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RefusedByGuest):
        guest(family, "web").agent.handle(protocol.Restore(b"", "sf-0"), lambda *_: None)
    assert sevfork("log", "web") == 0
    printed = capsys.readouterr()
    lines = [" ".join(line.split()[2:]) for line in printed.out.splitlines()[1:]]
    assert lines[0] == "generation 0, a root - -"
    assert lines[1] == "generation 0, a root, adopted by its owner - -"
    assert lines[2].startswith("captured 1.5 MiB ")
    assert lines[3].startswith("granted ")
    assert lines[4].startswith("refused Restore (23): this VM is not a child")
    assert "--verify checks whose that is" in printed.err


def test_a_child_begins_its_own_record_with_its_place(
    family: FakeHouse, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("log", "web-fork", "--owner", OWNER_LINE, SIMULATED, "--json")
    assert sevfork(*words) == 0
    told = json.loads(capsys.readouterr().out)
    (place,) = told["entries"]
    assert (place["what"], place["generation"], place["child_index"]) == ("place", 1, 0)
    member = told["lineage"]["members"][-1]
    assert (member["fork_id"], member["instance_key"]) == (place["fork_id"], told["instance_key"])
    assert told["evidence"] == "passed"


def test_another_reader_verifies_what_json_holds(
    family: FakeHouse, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevfork("log", "web", "--verify", SIMULATED, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    read = audit_reader.read(
        bytes.fromhex(told["signed_head"]),
        bytes.fromhex(told["encoded_entries"]),
        nonce=bytes.fromhex(told["nonce"]),
        instance_key=bytes.fromhex(told["instance_key"]),
    )
    assert read.counts == {name: chain["count"] for name, chain in told["chains"].items()}
    assert [entry["number"] for entry in read.entries] == [1, 2, 3, 4]
    grant, shown = read.entries[-1], told["entries"][-1]
    assert grant["instance_key"].hex() == shown["instance_key"]
    assert grant["manifest_digest"].hex() == shown["manifest_digest"]
    assert grant["fork_id"].hex() == told["entries"][2]["fork_id"]


def test_a_record_that_is_verified_says_so_last(
    family: FakeHouse, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevfork("log", "web", "--verify", SIMULATED) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "PASSED: 4 entries, none missing; the key that signed them is in fresh evidence "
        "(simulated, not confidential)"
    )
    assert sevfork("log", "web", "--owner", OWNER_LINE, SIMULATED) == 0
    assert "and in the owner's lineage (simulated" in capsys.readouterr().out
    assert sevfork("log", "web", "--owner", STRANGER_LINE, SIMULATED) == 22
    assert sevfork("log", "web", "--verify") == 21
    assert capsys.readouterr().out == ""


Instead = Callable[[protocol.Audited, bytes], protocol.Audited]


def answers_instead(
    house: FakeHouse, monkeypatch: pytest.MonkeyPatch, instead: Instead, vm: str = "web"
) -> None:
    """A host that hands over another record than the VM's."""
    agent = guest(house, vm).agent
    handle = agent.handle

    def relayed(request: protocol.Request, progress: object) -> protocol.Reply:
        reply = handle(request, progress)  # type: ignore[arg-type]
        if isinstance(request, protocol.ReadAudit) and isinstance(reply, protocol.Audited):
            return instead(reply, request.nonce)
        return reply

    monkeypatch.setattr(agent, "handle", relayed)


def test_a_host_that_leaves_an_entry_out_is_found_out(
    family: FakeHouse, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shorter(told: protocol.Audited, _nonce: bytes) -> protocol.Audited:
        last = audit_reader.split(told.entries)[-1]
        return protocol.Audited(told.head, told.entries[: -4 - len(last)])

    answers_instead(family, monkeypatch, shorter)
    assert sevfork("log", "web") == 22
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "the chain of grants ends at entry 0 of 1" in printed.err


def test_a_record_that_the_host_has_signed_is_found_out_by_evidence(
    family: FakeHouse, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers_instead(family, monkeypatch, lambda _told, nonce: AuditLog(InstanceKey()).read(nonce))
    assert sevfork("log", "web") == 0, "its word, as it is said"
    assert sevfork("log", "web", "--verify", SIMULATED) == 22
    assert "signed by another instance" in capsys.readouterr().err


def test_a_record_without_the_vms_place_is_none_of_its_lineage(
    family: FakeHouse, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = guest(family, "web").agent._key  # noqa: SLF001 - a VM that keeps an empty record
    answers_instead(family, monkeypatch, lambda _told, nonce: AuditLog(key).read(nonce))
    assert sevfork("log", "web", "--verify", SIMULATED) == 0
    assert sevfork("log", "web", "--owner", OWNER_LINE, SIMULATED) == 22
    assert "place is not that of the VM's lineage" in capsys.readouterr().err


def test_what_a_guest_says_drives_no_terminal(
    family: FakeHouse, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hostile(_told: protocol.Audited, nonce: bytes) -> protocol.Audited:
        audit = AuditLog(InstanceKey())
        for _ in range(200):
            audit.refused(protocol.GetStatus(), RefusedByGuest("\x1b[2J\nPASSED: all\rPASSED"))
        return audit.read(nonce)

    answers_instead(family, monkeypatch, hostile)
    assert sevfork("log", "web") == 0
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert "PASSED: all" in text
    assert not [line for line in text.splitlines() if line.startswith("PASSED")]
    assert not [char for char in text if char != "\n" and not char.isprintable()]
    assert "refusal: the oldest 72 of 200 are condensed" in printed.err


def test_what_changes_something_leaves_a_line_and_what_does_not_leaves_none(
    family: FakeHouse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(command_record, "write", lines.append)
    image = str(write_image(tmp_path / "another"))
    assert sevfork("up", "other", "--image", image) == 0
    assert sevfork("fork", "other", "--name", "child", "--timeout", "20s") == 0
    assert sevfork("snapshot", "other") == 0
    assert sevfork("fork", "nobody") == 11
    assert sevfork("rm", "other", "child") == 0
    dry = ("fork", "web", "--dry-run"), ("rm", "web", "--dry-run"), ("log", "web"), ("ls",)
    assert [sevfork(*words) for words in dry] == [0, 0, 0, 0]
    assert [line.partition(" (uid")[0] for line in lines] == [
        "up other: done",
        "fork other: done",
        "snapshot other: done",
        "fork nobody: exit code 11",
        "rm other child: done",
    ]
