"""What the command line says of an admin's own XML, and of each device of a parent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sevfork.cli import main as command
from sevfork.cli.options import App
from sevfork.domain.elements import parse, to_text
from sevfork.host import connection_choice
from tests.support.admin_xml import EDITED_DEVICES, OWN
from tests.support.fake_guests import FakeGuest, FakeHouse
from tests.support.image_factory import write_image


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch, house: FakeHouse) -> None:
    monkeypatch.setattr(command, "handle_signals", lambda _app: None)
    monkeypatch.setattr(connection_choice, "connect", lambda _uri, _note: house)


@pytest.fixture
def image(tmp_path: Path) -> str:
    return str(write_image(tmp_path / "another"))


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "own.xml"
    path.write_text(OWN)
    return str(path)


def sevfork(*arguments: str) -> int:
    return command.run(App(), list(arguments))


def test_a_dry_run_has_a_line_for_each_device(
    house: FakeHouse, parent: FakeGuest, capsys: pytest.CaptureFixture[str]
) -> None:
    uuid = house.find("web").uuid
    for device in parse(f"<devices>{EDITED_DEVICES}</devices>"):
        house.attach_device(uuid, to_text(device))
    assert sevfork("fork", "web", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "would fork 'web' into 'web-fork'" in said
    assert "watchdog" in said
    assert "is only read" in said
    assert sevfork("fork", "web", "--dry-run", "--json") == 0
    devices = json.loads(capsys.readouterr().out)["devices"]
    assert len(devices) == len(parse(house.xml(uuid)).findall("devices/*"))
    assert {each["plan"] for each in devices} == {"clone", "share"}
    assert all(each["reason"] for each in devices)
    assert sevfork("fork", "web", "--print-xml") == 0
    assert "not-told" not in capsys.readouterr().out


def test_a_device_that_cannot_be_forked_ends_with_11(
    house: FakeHouse, parent: FakeGuest, capsys: pytest.CaptureFixture[str]
) -> None:
    house.attach_device(house.find("web").uuid, "<shmem name='pool'/>")
    assert sevfork("fork", "web", "--dry-run", "--json") == 11
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "shmem 'pool': memory that several machines write to" in printed.err


def test_up_begins_with_an_admins_own_domain(
    house: FakeHouse, image: str, own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevfork("up", "mine", "--image", image, "--xml", own, "--print-xml") == 0
    domain = parse(capsys.readouterr().out)
    assert domain.findtext("name") == "mine"
    assert domain.findtext("memory") == "768"
    assert domain.find("devices/watchdog") is not None
    assert sevfork("up", "mine", "--image", image, "--xml", own, "--memory", "768M") == 0
    assert "<watchdog" in house.xml(house.find("mine").uuid)


@pytest.mark.parametrize(
    "options",
    [("--memory", "1G"), ("--vcpus", "2"), ("--virt-type", "kvm")],
)
def test_the_file_and_the_options_must_not_say_two_things(
    house: FakeHouse, image: str, own: str, options: tuple[str, ...]
) -> None:
    assert sevfork("up", "mine", "--image", image, "--xml", own, *options) == 2
    assert not house.defined


@pytest.mark.parametrize("text", ["<domain><os><kernel>/x</kernel></os></domain>", "<dom", ""])
def test_a_file_that_does_not_do_ends_with_2(
    house: FakeHouse, image: str, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "bad.xml"
    path.write_text(text)
    assert sevfork("up", "mine", "--image", image, "--xml", str(path)) == 2
    assert not house.defined


def test_without_an_image_it_starts_what_has_ended(house: FakeHouse, parent: FakeGuest) -> None:
    uuid = house.find("web").uuid
    assert sevfork("up", "web") == 11
    house.published.clear()
    house.end(uuid)
    assert sevfork("up", "web", "--memory", "2G") == 2
    assert sevfork("up", "web", "--dry-run") == 0
    assert not house.state_of(uuid).active
    assert sevfork("up", "web") == 0
    assert house.state_of(uuid).active
