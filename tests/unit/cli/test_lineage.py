"""``sevfork lineage`` and ``attest --owner``: what they print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sevfork.cli import main as command
from sevfork.cli.options import App
from sevfork.domain.spec import GuestSpec
from sevfork.host import connection_choice
from sevfork.image.image import Image
from sevfork.lifecycle.find import running_vm
from sevfork.lifecycle.fork import ForkRequest, plan_fork, run_fork
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.up import UpRequest, plan_up, run_up
from sevfork.owner import asking
from tests.support.fake_guests import FakeGuest, FakeHouse
from tests.support.image_factory import write_image
from tests.support.jobs import job_on
from tests.support.owners import OWNER_KEY, OWNER_LINE, STRANGER_LINE, adopted_root


@pytest.fixture(autouse=True)
def child(house: FakeHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "handle_signals", lambda _app: None)
    monkeypatch.setattr(connection_choice, "connect", lambda _uri, _note: house)
    adopted_root(house, Image.load(write_image(tmp_path / "image")))
    run_fork(job_on(house), plan_fork(house, ForkRequest("web")))


def sevfork(*arguments: str) -> int:
    return command.run(App(), [*arguments, "--allow-simulated"])


def test_a_descent_is_drawn_from_the_owner_to_the_vm(capsys: pytest.CaptureFixture[str]) -> None:
    assert sevfork("lineage", "web-fork", "--owner", OWNER_LINE) == 0
    owner, root, child, passed = capsys.readouterr().out.splitlines()
    assert owner == f"owner {OWNER_LINE}"
    assert root.startswith("└─ root 'web': instance ")
    assert child.startswith("   └─ generation 1 'web-fork': child 0 of fork ")
    assert passed == (
        "PASSED: 1 fork from the owner's root, evidence of 2 of 2 VMs (simulated, not confidential)"
    )


def test_what_was_saved_is_checked_without_a_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = str(tmp_path / "lineage")
    assert sevfork("lineage", "web-fork", "--owner", OWNER_LINE, "--save", saved) == 0
    monkeypatch.delattr(connection_choice, "connect")
    capsys.readouterr()
    assert sevfork("lineage", saved, "--owner", OWNER_LINE, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["vm"], told["owner_key"]) == ("web-fork", OWNER_KEY.hex())
    assert [member["generation"] for member in told["members"]] == [0, 1]
    assert [member["evidence"] for member in told["members"]] == ["passed", "passed"]
    assert sevfork("lineage", saved, "--owner", STRANGER_LINE) == 22


def test_another_owner_refuses_a_vm_and_keeps_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "lineage"
    code = sevfork("lineage", "web-fork", "--owner", STRANGER_LINE, "--save", str(saved))
    assert code == 22
    assert "another owner" in capsys.readouterr().err
    assert not saved.exists()


def test_attest_joins_what_a_vm_is_and_whom_it_descends_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sevfork("attest", "web-fork", "--owner", OWNER_LINE) == 0
    printed = capsys.readouterr().out
    assert f"\nowner {OWNER_LINE}\n└─ root: instance " in printed
    assert sevfork("attest", "web-fork", "--owner", OWNER_LINE, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["lineage"]["members"][-1]["instance_key"] == told["claims"]["instance_key"]
    assert sevfork("attest", "web-fork", "--owner", STRANGER_LINE) == 22
    assert sevfork("attest", "web-fork") == 0


def test_attest_refuses_a_lineage_that_is_the_parents(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = asking.encoded_lineage

    def childs(job: Job, _spec: GuestSpec) -> bytes:
        return ask(job, running_vm(job.hypervisor, "web-fork", "tell")[1])

    monkeypatch.setattr(asking, "encoded_lineage", childs)
    assert sevfork("attest", "web", "--owner", OWNER_LINE) == 22
    assert "that of another VM" in capsys.readouterr().err


def test_attest_with_an_owner_refuses_a_vm_that_has_none(
    house: FakeHouse, parent_without_owner: FakeGuest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevfork("attest", "ownerless", "--owner", OWNER_LINE) == 22
    assert "no owner has adopted the root" in capsys.readouterr().err


@pytest.fixture
def parent_without_owner(house: FakeHouse, tmp_path: Path) -> FakeGuest:
    image = Image.load(write_image(tmp_path / "image"))
    made = run_up(job_on(house), plan_up(house, UpRequest("ownerless", image)))
    return house.guests[made.spec.uuid]
