"""``sevfork certs fetch``: what it gets, keeps, hands over and prints."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from sevfork.cli import main as command
from sevfork.cli.options import App
from sevfork.errors import HostCannot
from sevfork.host import connection_choice
from sevfork.verifier import http
from sevfork.verifier.http import Answer
from sevfork.wire import protocol
from tests.support.fake_guests import FakeGuest, FakeHouse
from tests.support.fake_intel import FakeIntel
from tests.support.hardware_house import AmdMachine, HardwareHouse, IntelMachine
from tests.support.vendor_services import intel_pages

LASTING = {"nextUpdate": "2099-01-01T00:00:00Z"}
INTEL = FakeIntel(tcb=LASTING, qe=LASTING)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The PCCS at http://pccs; the URLs that it was asked for."""
    asked: list[str] = []

    def fetched(url: str, *, timeout_s: float) -> Answer:
        asked.append(url)
        page = intel_pages(INTEL)[url.partition("?")[0].removeprefix("http://pccs")]
        headers = {name.lower(): value for name, value in page.headers.items()}
        return Answer(200, page.body, headers=headers)

    _replace_fetcher(monkeypatch, tmp_path, fetched)
    return asked


def _replace_fetcher(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fetcher: Callable[..., Answer]
) -> None:
    monkeypatch.setattr(command, "handle_signals", lambda _app: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(http, "http_fetcher", fetcher)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "evidence"
    path.write_bytes(replace(INTEL.evidence(), certificates=b"").encode())
    return path


def fetch(*arguments: str) -> int:
    return command.run(App(), ["certs", "fetch", *arguments])


def test_a_files_collateral_is_got_kept_and_told(
    answers: list[str], file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(str(file), "--pccs", "http://pccs") == 0
    folder = tmp_path / "cache/sevfork/intel-pcs"
    tcb, *others = capsys.readouterr().out.splitlines()
    wanted = f"TCB info of b0c06f000000, until 2099-01-01 00:00 UTC: {folder}/tcb-b0c06f000000.http"
    assert tcb == wanted
    assert len(others) == 3
    assert len(list(folder.iterdir())) == 4


def test_the_pccs_may_stand_in_the_environment(
    answers: list[str], file: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("SEVFORK_PCCS", "http://pccs")
    assert fetch(str(file), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["schema"], told["technology"], told["missing"]) == (1, "tdx", [])
    assert told["items"][0]["until"] == "2099-01-01T00:00:00+00:00"


def test_what_is_not_to_be_had_is_told_beside_the_rest(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody(url: str, *, timeout_s: float) -> Answer:
        raise HostCannot(f"'{url}' cannot be got: no route")

    _replace_fetcher(monkeypatch, tmp_path, nobody)
    assert fetch(str(file), "--json") == 13
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told["items"] == []
    assert [each["exit_code"] for each in told["missing"]] == [13] * 4
    assert "no route" in printed.err


def test_a_simulated_vm_has_no_vendor_to_ask(
    house: FakeHouse, parent: FakeGuest, answers: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(connection_choice, "connect", lambda _uri, _note: house)
    assert fetch("web") == 2
    assert "simulated" in capsys.readouterr().err
    assert answers == []


@pytest.fixture(params=[AmdMachine(), IntelMachine()], ids=["snp", "tdx"])
def hardware(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    _steady_memory: None,
) -> HardwareHouse:  # fmt: skip
    made = HardwareHouse(tmp_path, request.param)
    _replace_fetcher(monkeypatch, tmp_path, made.web)
    monkeypatch.setattr(connection_choice, "connect", lambda _uri, _note: made)
    for module in ("captures", "unsealed"):
        monkeypatch.setattr(f"sevfork.agent.{module}.find_volume", lambda serial: tmp_path / serial)
    return made


def sevfork(*arguments: str) -> int:
    return command.run(App(), [*arguments, "--json"])


def test_verbs_get_by_themselves_what_hardware_needs(
    hardware: HardwareHouse, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevfork("up", "web", "--image", str(hardware.image())) == 0
    asked = len(hardware.web.asked)
    assert asked >= 3
    hardware.web.down = True
    assert sevfork("fork", "web") == 0
    assert sevfork("certs", "fetch", "web") == 13
    hardware.web.down = False
    assert sevfork("certs", "fetch", "web") == 0
    assert isinstance(hardware.heard[-1], protocol.Endorse)


def test_a_vm_that_cannot_be_launched_names_a_command_that_works(
    hardware: HardwareHouse, capsys: pytest.CaptureFixture[str]
) -> None:
    hardware.web.down = True
    assert sevfork("up", "web", "--image", str(hardware.image())) == 20
    words = re.search("'sevfork (certs fetch [^']+)'", capsys.readouterr().err)
    assert words is not None
    hardware.web.down = False
    assert sevfork(*words[1].split()) == 0
    hardware.web.down = True
    assert sevfork("up", "web", "--image", str(hardware.image())) == 0


def test_what_is_no_evidence_is_refused(answers: list[str], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"nothing of ours")
    assert fetch(str(other)) == 20
    assert answers == []
