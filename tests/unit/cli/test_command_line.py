"""The command line: verbs, option values, exit codes, what goes where."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import click
import pytest

from sevfork import errors
from sevfork.cli import main as command
from sevfork.cli.options import App, duration, memory_size, published_port
from sevfork.cli.output import Output
from sevfork.domain.metadata import PublishedPort, Transport
from sevfork.host import connection_choice
from sevfork.host.hypervisor import ChannelBusy, HostFacts, PortTaken
from sevfork.lifecycle.ports import PortWish
from tests.support.fake_hypervisor import FakeHypervisor
from tests.support.image_factory import write_image


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(command, "handle_signals", lambda _app: None)


@pytest.fixture
def hypervisor(monkeypatch: pytest.MonkeyPatch) -> FakeHypervisor:
    fake = FakeHypervisor()
    monkeypatch.setattr(connection_choice, "connect", lambda _uri, _note: fake)
    return fake


def sevfork(*arguments: str) -> int:
    return command.run(App(), list(arguments))


@pytest.mark.parametrize("verb", command.VERBS)
def test_every_verb_can_be_loaded_and_explains_itself(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _, attribute = command.VERBS[verb][0].partition(":")
    assert isinstance(getattr(importlib.import_module(module), attribute), click.Command)
    assert sevfork(verb, "--help") == 0
    assert "Usage: sevfork " + verb in capsys.readouterr().out


def test_ls_prints_data_on_stdout_and_nothing_else(
    hypervisor: FakeHypervisor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevfork("ls", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"schema": 1, "vms": []}
    assert printed.err == ""
    assert sevfork("ls") == 0
    assert capsys.readouterr().out.startswith("NAME  STATE")


def test_an_error_is_one_line_with_a_hint_and_its_exit_code(
    hypervisor: FakeHypervisor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevfork("rm", "nonsuch") == 11
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[0] == "error: there is no VM 'nonsuch'"


def test_a_dry_run_and_the_xml_change_nothing(
    hypervisor: FakeHypervisor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(write_image(tmp_path / "image"))
    assert sevfork("up", "web", "--image", image, "--dry-run") == 0
    assert capsys.readouterr().out.startswith("would start 'web'")
    assert sevfork("up", "web", "--image", image, "--print-xml") == 0
    assert capsys.readouterr().out.startswith("<domain ")
    assert sevfork("up", "web", "--image", image, "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["dry_run"] is True
    assert not hypervisor.defined
    assert not hypervisor.storage.files


def test_rm_dry_run_removes_nothing(
    hypervisor: FakeHypervisor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevfork("rm", "--dry-run", "nonsuch") == 11
    hypervisor.add_foreign("theirs")
    assert sevfork("rm", "--dry-run", "theirs") == 11
    assert len(hypervisor.defined) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsuch"],
        ["up"],
        ["up", "x", "--image", "d", "--memory", "lots"],
        ["up", "x", "--image", "d", "--publish", "http"],
        ["up", "x", "--image", "d", "--timeout", "soon"],
        ["ls", "--no-such-option"],
        ["rm"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert sevfork(*arguments) == 2


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (errors.SevforkError("x"), 1),
        (errors.HypervisorUnreachable("x"), 10),
        (ChannelBusy("x"), 11),
        (PortTaken.of(PublishedPort(1, 2)), 11),
        (errors.HostCannot("x"), 13),
        (ModuleNotFoundError("x", name="libvirt"), 13),
        (ModuleNotFoundError("x", name="nonsuch"), 1),
        (RuntimeError("a bug"), 1),
        (KeyboardInterrupt(), 130),
        (command.Terminated(), 143),
    ],
)
def test_each_way_to_end_has_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int
) -> None:
    def connect(_uri: str | None, _note: object) -> None:
        raise raised

    monkeypatch.setattr(connection_choice, "connect", connect)
    assert sevfork("ls") == code


def test_the_connection_may_stand_before_or_after_the_verb(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str | None] = []

    def connect(uri: str | None, _note: object) -> FakeHypervisor:
        asked.append(uri)
        return FakeHypervisor()

    monkeypatch.setattr(connection_choice, "connect", connect)
    sevfork("-c", "before:///", "ls")
    sevfork("ls", "-c", "after:///")
    sevfork("ls")
    assert asked == ["before:///", "after:///", None]


def test_quiet_leaves_data_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(quiet=True)
    output.note("by the way")
    output.data("data")
    output.error(errors.SevforkError("message", hint="do this"))
    printed = capsys.readouterr()
    assert printed.out == "data\n"
    assert printed.err == "error: message\nhint: do this\n"


def test_a_table_off_a_terminal_is_plain_columns(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(["NAME", "STATE"], [["web", "running"], ["a" * 120, "[bold]"]])
    assert capsys.readouterr().out.splitlines()[2] == "a" * 120 + "  [bold]"


def test_progress_is_silent_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Output().watching() as watch:
        watch("web", "image", 1, 2)
        watch("web", "ready")
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""


def test_each_phase_that_is_watched_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"), Output().watching() as watch:
        for done in range(3):
            watch("web", "copy", done, 3)
        watch("web", "freeze")
    assert caplog.messages == ["web, phase: copy", "web, phase: freeze"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("2m", 120), ("1h", 3600), ("5", 5), ("0.5s", 0.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "1d", "s", "1 m", "1e3"])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        duration(text)


@pytest.mark.parametrize(
    ("text", "mib"), [("512", 512), ("512M", 512), ("2G", 2048), ("1GiB", 1024)]
)
def test_memory_sizes(text: str, mib: int) -> None:
    assert memory_size(text) == mib


@pytest.mark.parametrize("text", ["", "0", "0G", "-1", "1T", "1.5G", "G"])
def test_what_is_not_a_memory_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        memory_size(text)


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("8080:80", PortWish(8080, 80)),
        ("80", PortWish(None, 80)),
        ("65535:1/tcp", PortWish(65535, 1)),
        ("53/udp", PortWish(None, 53, transport=Transport.UDP)),
        ("192.0.2.7:8080:80", PortWish(8080, 80, "192.0.2.7")),
        ("192.0.2.7::53/udp", PortWish(None, 53, "192.0.2.7", Transport.UDP)),
    ],
)
def test_ports_to_publish(text: str, wish: PortWish) -> None:
    assert published_port(text) == wish


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "80:", ":80", "0:80", "80:0", "70000:80", "a:b", "1:2:3"),
        *("80/sctp", "80/", "192.0.2.7:80", "192.0.2.256:1:2", "1.2.3.4.5:1:2", "[::1]:80:80"),
        *("0.0.0.0:0:80", "127.0.0.1:1:70000"),
    ],
)
def test_what_is_not_a_port_to_publish_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        published_port(text)


def test_doctor_exits_13_when_no_guest_can_run(
    hypervisor: FakeHypervisor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevfork("doctor", "--json") == 0
    assert json.loads(capsys.readouterr().out)["runs_guests"] is True
    small = HostFacts("fake", (9, 0, 0), (7, 2, 0), 2, 512, 100)
    monkeypatch.setattr(hypervisor, "facts", lambda: small)
    assert sevfork("doctor") == 13
    assert "end something" in capsys.readouterr().out


def test_doctor_reports_a_libvirt_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def connect(_uri: str | None, _note: object) -> None:
        raise errors.HypervisorUnreachable("no libvirt at 'x:///'", hint="start it")

    monkeypatch.setattr(connection_choice, "connect", connect)
    assert sevfork("doctor", "--json") == 13
    report = json.loads(capsys.readouterr().out)
    assert report["findings"][-1] == {
        "subject": "libvirt",
        "verdict": "missing",
        "found": "no libvirt at 'x:///'",
        "remedy": "start it",
    }


def test_a_reader_that_goes_away_is_no_error_of_ours(
    hypervisor: FakeHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: Output, _document: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(Output, "json", broken)
    monkeypatch.setattr(os, "dup2", lambda _from, _to: None)
    assert sevfork("ls", "--json") == 141
