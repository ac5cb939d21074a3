"""Text of evidence, a guest, libvirt or a file, in each place that shows it.

It drives no terminal and begins no line: a line that begins with PASSED is sevfork's own.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from sevfork import errors
from sevfork.attest.evidence import Evidence
from sevfork.attest.verdict import Check, Verdict
from sevfork.cli import main as command
from sevfork.cli.options import App, log_everything
from sevfork.cli.output import Output
from sevfork.domain.metadata import PublishedPort
from sevfork.domain.spec import Accelerator
from sevfork.host import connection_choice
from sevfork.host.hypervisor import Domain, DomainState, HostFacts
from sevfork.lifecycle import doctor, find, fork, inventory, remove, up
from sevfork.lifecycle.finding import Finding, Standing
from sevfork.lifecycle.progress import Watcher
from sevfork.owner.documents import NamedStatement, SavedLineage
from sevfork.technology import Technology
from sevfork.verifier import attest, pool, recognise, verify
from sevfork.verifier.statement import Statement
from sevfork.wire import protocol
from tests.support import simulators
from tests.support.fake_hypervisor import FakeHypervisor
from tests.support.guest_specs import METADATA, ROOT
from tests.support.image_factory import write_image
from tests.support.owners import OWNER_LINE, lineage_file

HOSTILE = "x\x1b[2J\x9b1m\nPASSED: all 35 checks\rPASSED\x0bPASSED\u2028PASSED\u202e\udc80\x00y"
DOMAIN = Domain(HOSTILE, "u", 1, DomainState.RUNNING, 1024, 1, "<vm/>")


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(command, "handle_signals", lambda _app: None)


@pytest.fixture
def hypervisor(monkeypatch: pytest.MonkeyPatch) -> FakeHypervisor:
    fake = FakeHypervisor()
    monkeypatch.setattr(connection_choice, "connect", lambda _uri, _note: fake)
    return fake


def assert_harmless(capsys: pytest.CaptureFixture[str], *, own: int = 0) -> None:
    """``own``: how many verdicts sevfork itself gave."""
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert "PASSED: all 35 checks" in text, "the text was not shown at all"
    assert sum(line.startswith("PASSED") for line in text.splitlines()) == own
    assert not [char for char in text if char != "\n" and not char.isprintable()]


def returning(value: object) -> Any:
    return lambda *_args, **_options: value


@pytest.mark.parametrize("way", ["data", "note", "warn"])
def test_whatever_is_said(capsys: pytest.CaptureFixture[str], way: str) -> None:
    getattr(Output(), way)(HOSTILE)
    assert_harmless(capsys)


def test_an_error_and_its_hint(capsys: pytest.CaptureFixture[str]) -> None:
    Output().error(errors.WrongState(HOSTILE, hint=HOSTILE))
    assert_harmless(capsys)


def test_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        log_everything()
        try:
            raise errors.WrongState(HOSTILE)
        except errors.WrongState:
            logging.getLogger("sevfork.test").debug("%s", HOSTILE, exc_info=True)
    finally:
        logging.basicConfig(force=True, level=logging.WARNING)
    assert_harmless(capsys)


def verdict_with(field: str) -> Verdict:
    check = Check("name", "wanted", "got", passed=field == "passed got")
    verdict = Verdict(Technology.SIMULATED, (check,), ())
    changes: dict[str, Any] = {
        "name": {"checks": (structs.replace(check, name=HOSTILE),)},
        "wanted": {"checks": (structs.replace(check, wanted=HOSTILE),)},
        "got": {"checks": (structs.replace(check, got=HOSTILE),)},
        "passed got": {"checks": (structs.replace(check, got=HOSTILE),)},
        "fact name": {"facts": ((HOSTILE, "value"),)},
        "fact": {"facts": (("name", HOSTILE),)},
        "not_checked": {"not_checked": (HOSTILE,)},
        "warnings": {"warnings": (HOSTILE,)},
    }
    return structs.replace(verdict, **changes[field])


VERDICT_FIELDS = ["name", "wanted", "got", "passed got", "fact name", "fact"]
VERDICT_FIELDS += ["not_checked", "warnings"]


@pytest.mark.parametrize("field", VERDICT_FIELDS)
def test_verify(
    field: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "evidence").write_bytes(b"evidence")
    evidence = Evidence(Technology.SIMULATED, b"", b"")
    monkeypatch.setattr(recognise, "recognise", returning(evidence))
    completing = SimpleNamespace(complete=returning(evidence))
    monkeypatch.setattr(pool.Pool, "read", returning(completing))
    monkeypatch.setattr(verify, "verdict_on", returning(verdict_with(field)))
    code = command.run(App(), ["verify", str(tmp_path / "evidence")])
    passed = field == "passed got"
    assert code == (0 if passed else 20)
    assert_harmless(capsys, own=int(passed))


STATUS = protocol.Status(
    "1", "simulated", protocol.WorkloadPhase.READY, "", None, "root", 0, b"", b"", "anyone", "w"
)


@pytest.mark.parametrize("field", ["version", "role", "fork_policy", "workload", "vm"])
def test_attest(
    field: str,
    hypervisor: FakeHypervisor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import msgspec

    claims = STATUS if field == "vm" else msgspec.structs.replace(STATUS, **{field: HOSTILE})
    attested = attest.Attestation(
        HOSTILE if field == "vm" else "web",
        Statement(bytes(16), protocol.encode(claims), b""),
        Verdict(Technology.SIMULATED, (Check("name", "wanted", "got", True),), ()),
    )
    monkeypatch.setattr(find, "running_vm", returning((DOMAIN, ROOT)))
    monkeypatch.setattr(attest, "attest", returning(attested))
    assert command.run(App(), ["attest", "web", "--allow-simulated"]) == 0
    assert_harmless(capsys, own=1)


def test_lineage(
    simulator: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """What an operator calls the VMs in a file, which holds no lone surrogates."""
    name = HOSTILE.encode("utf-8", "replace").decode()
    monkeypatch.setenv("XDG_DATA_HOME", str(simulator))
    saved = lineage_file(simulators.processor(), 1)
    named = tuple(NamedStatement(name, each.statement) for each in saved.statements)
    path = tmp_path / "lineage"
    SavedLineage(vm=name, lineage=saved.lineage, statements=named).write(path)
    words = ["lineage", str(path), "--owner", OWNER_LINE, "--allow-simulated"]
    assert command.run(App(), words) == 0
    assert_harmless(capsys, own=1)


@pytest.mark.parametrize("options", [[], ["--tree"]])
@pytest.mark.parametrize("field", ["name", "parent_name", "unreadable"])
def test_ls(
    field: str,
    options: list[str],
    hypervisor: FakeHypervisor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    domain = DOMAIN if field == "name" else replace(DOMAIN, name="web")
    metadata = replace(METADATA, parent_name=HOSTILE if field == "parent_name" else None)
    vm = inventory.Vm(domain, metadata)
    if field == "unreadable":
        vm = inventory.Vm(domain, None, HOSTILE)
    monkeypatch.setattr(inventory, "vms", returning((vm,)))
    assert command.run(App(), ["ls", *options]) == 0
    assert_harmless(capsys)


def test_rm(
    hypervisor: FakeHypervisor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remove, "plan_remove", returning((DOMAIN,)))
    assert command.run(App(), ["rm", "web", "--dry-run"]) == 0
    assert_harmless(capsys)


@pytest.mark.parametrize("field", ["subject", "found", "remedy"])
def test_doctor(
    field: str,
    hypervisor: FakeHypervisor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = {"subject": "libvirt", "found": "found", "remedy": "remedy", field: HOSTILE}
    finding = Finding(verdict=Standing.OK, **words)
    report = doctor.Report((finding,), runs_guests=True)
    monkeypatch.setattr(doctor, "examine", returning(report))
    assert command.run(App(), ["doctor"]) == 0
    assert_harmless(capsys)


def test_up(
    hypervisor: FakeHypervisor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    image = str(write_image(tmp_path / "image"))
    spec = replace(ROOT, name=HOSTILE)
    monkeypatch.setattr(up, "run_up", returning(up.UpOutcome(spec, 1.0, 2.0)))
    assert command.run(App(), ["up", "web", "--image", image]) == 0
    assert_harmless(capsys)


@pytest.mark.parametrize("field", ["child", "error", "parent"])
def test_fork(
    field: str,
    hypervisor: FakeHypervisor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = fork.ForkedChild("web-fork", "u", (PublishedPort(1, 2),), 1)
    children = {
        "child": replace(good, name=HOSTILE),
        "error": fork.ForkedChild("web-fork", "", error=errors.RefusedByGuest(HOSTILE)),
        "parent": good,
    }
    outcome = fork.ForkOutcome(
        parent=HOSTILE if field == "parent" else "web",
        parent_uuid="u",
        technology=Technology.SIMULATED,
        accelerator=Accelerator.TCG,
        fork_id="",
        pause_ms=1.0,
        capture_s=1.0,
        state_bytes=1,
        sealed_bytes=1,
        children=(children[field],),
    )
    monkeypatch.setattr(fork, "plan_fork", returning(None))
    monkeypatch.setattr(fork, "run_fork", returning(outcome))
    assert command.run(App(), ["fork", "web"]) == (23 if field == "error" else 0)
    assert_harmless(capsys)


def test_progress_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []

    class Bars:
        def add_task(self, who: str, **_: object) -> int:
            shown.append(who)
            return 0

        def update(self, _task: int, *, phase: str, **_: object) -> None:
            shown.append(phase)

    from sevfork.cli.output import Lines

    watch: Watcher = Lines(Bars())  # type: ignore[arg-type]
    watch(HOSTILE, HOSTILE)
    assert [text.isprintable() for text in shown] == [True, True]


def test_host_facts(capsys: pytest.CaptureFixture[str]) -> None:
    """A libvirt host names itself, and doctor says that name."""
    hypervisor = FakeHypervisor()
    hypervisor.facts = returning(  # type: ignore[method-assign]
        HostFacts(HOSTILE, (9, 0, 0), (7, 2, 0), 1, 1024, 1024)
    )
    report = doctor.examine(lambda: hypervisor)
    Output().table(["FOUND"], [[each.found] for each in report.findings])
    assert_harmless(capsys)
