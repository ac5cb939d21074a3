"""What the agent answers in each state of its VM, and what it lets the hardware sign."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sevfork.agent import restarts
from sevfork.agent.agent import Agent
from sevfork.agent.container.adopt import Ended
from sevfork.agent.container.output import Piece, Tail
from sevfork.agent.measured import Measured
from sevfork.agent.workload import Workload
from sevfork.attest.evidence import Evidence
from sevfork.attest.guest_policy import GuestPolicy, guest_policy_toml
from sevfork.errors import HostCannot, RefusedByGuest, SevforkError, WrongState
from sevfork.handshake import InstanceKey
from sevfork.handshake.launch import LaunchConfig, Role, launch_config_hash
from sevfork.simulated.processor import SimulatedProcessor
from sevfork.technology import Technology
from sevfork.wire import protocol
from sevfork.wire.lp import lp
from sevfork.wire.protocol import WorkloadPhase
from tests.support import simulators

BUILT = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = LaunchConfig(Role.ROOT).encode()
CHILD = LaunchConfig(Role.CHILD, None, b"\x05" * 48).encode()
WORKLOAD = b'name = "w"\ncommand = ["/bin/w"]\nready = { tcp = 6379 }\nports = [6379]\n'


class Vm:
    """One VM: its processor, which notes what it is asked to sign, and its workload."""

    technology = Technology.SIMULATED

    def __init__(
        self,
        processor: SimulatedProcessor,
        folder: Path,
        launched: bytes,
        workload: bytes = WORKLOAD,
    ) -> None:
        self._processor, self._launched = processor, launched
        self.signed: list[bytes] = []
        self.is_running = False
        self.ended_as = Ended(0)
        self.output = Tail()
        self.restarts = 0
        self.uncapturable: str | None = None
        self.failure: SevforkError | None = None
        self.may_become_ready = threading.Event()
        self.may_become_ready.set()
        text = guest_policy_toml(
            Technology.SIMULATED, "anyone", [processor.root_fingerprint], BUILT
        )
        policy = GuestPolicy.decode(text.encode())
        measured = Measured(Technology.SIMULATED, policy, Workload.load(workload))
        engine: Any = SimpleNamespace(probe=lambda: self.uncapturable, warm_up=lambda: None)
        self.restoring = folder / "restoring"
        self.agent = Agent(measured, InstanceKey(), self, self, engine, self)

    def raise_network(self) -> None:
        """There is none."""

    def step_clock(self, nanoseconds: int) -> None:
        """The machine's own clock is right."""

    def evidence(self, report_data: bytes) -> Evidence:
        self.signed.append(report_data)
        signed = launch_config_hash(Technology.SIMULATED, self._launched)
        return self._processor.report(b"m" * 48, signed, b"i" * 32, report_data)

    def start(self) -> None:
        self.is_running = True

    def wait_ready(self) -> None:
        assert self.may_become_ready.wait(5)
        if self.failure:
            raise self.failure

    def ended(self) -> Ended:
        return self.ended_as

    def restart(self) -> None:
        self.restarts += 1
        self.is_running = True

    def stop(self, force: bool) -> None:
        self.is_running = False

    def begin(self, argv: Sequence[str], streams: tuple[int, int, int]) -> int:
        raise AssertionError("nothing is run inside")

    def read_output(self, offset: int, limit: int) -> Piece:
        return self.output.read(offset, limit)

    def exec(self, *_: object, **__: object) -> Ended:
        raise AssertionError("this workload has no hooks")

    def tell(self, line: bytes) -> int:
        raise AssertionError("this workload has no children")

    def tell_anew(self, lines: bytes) -> None:
        raise AssertionError("this workload has no children")

    def ask(self, request: protocol.Request) -> Any:
        return self.agent.handle(request, lambda *_: None)

    def configure(self, config: bytes = ROOT) -> None:
        self.ask(protocol.Configure(config))

    def reaches(self, phase: WorkloadPhase) -> protocol.Status:
        until = time.monotonic() + 5
        while (status := self.ask(protocol.GetStatus())).phase is not phase:
            assert time.monotonic() < until, status
            time.sleep(0.01)
        assert isinstance(status, protocol.Status)
        return status


CAPTURE = protocol.Capture(bytes(16), "sf-0123456789abcdef")


@pytest.fixture
def processor() -> SimulatedProcessor:
    return simulators.processor()


@pytest.fixture
def vm(processor: SimulatedProcessor, tmp_path: Path, _steady_memory: None) -> Vm:
    return Vm(processor, tmp_path, ROOT)


@pytest.fixture
def child(processor: SimulatedProcessor, tmp_path: Path) -> Vm:
    return Vm(processor, tmp_path, CHILD)


# Design, rule 2: no caller's bytes ever reach report data unhashed and unlabelled.


@pytest.mark.parametrize("nonce", [bytes(16), b"n" * 32, b"\xff" * 64])
def test_attest_signs_a_labelled_hash_and_never_the_callers_bytes(vm: Vm, nonce: bytes) -> None:
    attested = vm.ask(protocol.Attest(nonce))
    (signed,) = vm.signed
    labelled = lp(b"sevfork/1 attest", nonce, attested.claims)
    assert signed == hashlib.sha512(labelled).digest()
    assert Evidence.decode(attested.evidence).report


def test_attest_does_not_sign_what_a_child_would_have_to_show(vm: Vm) -> None:
    t1 = hashlib.sha384(b"OFFER and JOIN").digest()
    childs = hashlib.sha512(lp(b"sevfork/1 child", t1)).digest()
    for nonce in (childs, t1, lp(b"sevfork/1 child", t1)[:64]):
        vm.ask(protocol.Attest(nonce))
    assert childs not in vm.signed


@pytest.mark.parametrize("size", [0, 15, 65, 1000])
def test_a_nonce_of_another_size_is_refused_unsigned(vm: Vm, size: int) -> None:
    with pytest.raises(RefusedByGuest, match="nonce"):
        vm.ask(protocol.Attest(bytes(size)))
    assert not vm.signed


def test_the_claims_are_what_the_agent_says_of_itself(vm: Vm) -> None:
    vm.configure()
    status = vm.reaches(WorkloadPhase.READY)
    assert protocol.decode_status(vm.ask(protocol.Attest(bytes(32))).claims) == status


# What may be forked, and when.


def test_a_vm_that_nobody_has_configured_is_not_captured(vm: Vm) -> None:
    with pytest.raises(WrongState, match="unconfigured"):
        vm.ask(CAPTURE)


def test_a_workload_that_starts_is_not_captured(vm: Vm) -> None:
    vm.may_become_ready.clear()
    vm.configure()
    with pytest.raises(WrongState, match="starting"):
        vm.ask(CAPTURE)
    vm.may_become_ready.set()
    vm.reaches(WorkloadPhase.READY)


def test_a_workload_that_failed_is_not_captured(vm: Vm) -> None:
    vm.failure = HostCannot("no")
    vm.configure()
    assert vm.reaches(WorkloadPhase.FAILED).detail.startswith("no")
    with pytest.raises(WrongState, match="failed"):
        vm.ask(CAPTURE)


def test_a_workload_that_ended_is_not_captured(vm: Vm) -> None:
    vm.configure()
    vm.reaches(WorkloadPhase.READY)
    vm.is_running = False
    with pytest.raises(WrongState, match="ended"):
        vm.ask(CAPTURE)


def test_a_child_before_its_grant_is_not_captured(child: Vm) -> None:
    child.configure(CHILD)
    with pytest.raises(WrongState, match="waiting"):
        child.ask(CAPTURE)


# One VM is one thing, from its launch on.


def test_a_vm_is_configured_as_what_it_was_launched_as(vm: Vm) -> None:
    with pytest.raises(SevforkError, match="launch"):
        vm.configure(CHILD)
    assert vm.ask(protocol.GetStatus()).role is None


def test_the_same_configuration_again_changes_nothing_and_another_is_refused(vm: Vm) -> None:
    vm.configure()
    vm.configure()
    with pytest.raises(RefusedByGuest, match="something else"):
        vm.configure(CHILD)
    assert vm.reaches(WorkloadPhase.READY).role == "root"


def test_an_agent_that_starts_again_under_its_workload_takes_no_configuration(vm: Vm) -> None:
    vm.is_running = True
    with pytest.raises(WrongState, match="started again"):
        vm.configure()
    assert not vm.signed


def test_an_agent_that_starts_again_under_its_workload_has_no_children(vm: Vm) -> None:
    vm.is_running = True
    with pytest.raises(WrongState, match="started again"):
        vm.ask(protocol.ListFamily())


@pytest.mark.parametrize(
    "request_",
    [
        protocol.RelayJoin(bytes(16), 0, b""),
        protocol.RelayConfirm(bytes(16), 0, b""),
        protocol.RelayEvent(bytes(16), 0, b""),
        protocol.Abandon(bytes(16)),
    ],
)
def test_a_child_before_its_grant_is_nobodys_parent(child: Vm, request_: protocol.Request) -> None:
    child.configure(CHILD)
    with pytest.raises(WrongState, match="no workload"):
        child.ask(request_)


@pytest.mark.parametrize("request_", [protocol.RelayOffer(b""), protocol.Restore(b"", "sf-0")])
def test_a_root_takes_no_state(vm: Vm, request_: protocol.Request) -> None:
    vm.configure()
    with pytest.raises(RefusedByGuest, match="not a child"):
        vm.ask(request_)
    assert vm.reaches(WorkloadPhase.READY).generation == 0


def test_what_is_printed_is_read_where_the_image_lets_the_host(vm: Vm) -> None:
    vm.output.add(b"words\n")
    assert vm.ask(protocol.ReadLogs(2, 3)) == protocol.Logs(2, b"rds", 6)


def test_what_is_printed_for_the_owner_is_not_the_hosts(
    processor: SimulatedProcessor, tmp_path: Path
) -> None:
    vm = Vm(processor, tmp_path, ROOT, b'logs = "guest"\n' + WORKLOAD)
    vm.output.add(b"words\n")
    with pytest.raises(RefusedByGuest, match="for its owner"):
        vm.ask(protocol.ReadLogs(0, 100))
    assert vm.ask(protocol.GetStatus()).logs == "guest"


def test_the_last_words_of_a_workload_that_does_not_start_are_in_no_log(
    vm: Vm, caplog: pytest.LogCaptureFixture
) -> None:
    vm.failure = WrongState("it ended", printed="the address is taken")
    vm.configure()
    status = vm.reaches(WorkloadPhase.FAILED)
    assert (status.detail, status.printed) == ("it ended", "the address is taken")
    assert "the address" not in caplog.text


def test_a_workload_is_stopped_once_and_its_end_is_told(vm: Vm) -> None:
    vm.configure()
    vm.reaches(WorkloadPhase.READY)
    vm.ended_as = Ended(0)
    told = vm.ask(protocol.StopWorkload(force=False))
    assert told.events[-1] == protocol.Happened(protocol.LifeEvent.EXITED, 0)
    assert vm.ask(protocol.StopWorkload(force=True)) == told


def test_a_child_that_waits_has_nothing_to_stop(child: Vm) -> None:
    with pytest.raises(WrongState, match="unconfigured"):
        child.ask(protocol.StopWorkload(force=True))
    child.configure(CHILD)
    with pytest.raises(WrongState, match="waiting"):
        child.ask(protocol.StopWorkload(force=True))


@pytest.mark.usefixtures("_steady_memory")
def test_a_workload_that_fails_is_started_again_and_has_not_exited(
    processor: SimulatedProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "_FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(restarts, "_LOOK_S", 0.01)
    vm = Vm(processor, tmp_path, ROOT, b'restart = "on-failure"\n' + WORKLOAD)
    vm.configure()
    vm.reaches(WorkloadPhase.READY)
    vm.ended_as, vm.is_running = Ended(1), False
    assert [each.event for each in vm.ask(protocol.Events()).events] == [protocol.LifeEvent.READY]
    until = time.monotonic() + 5
    while not vm.restarts:
        assert time.monotonic() < until
        time.sleep(0.01)
    vm.reaches(WorkloadPhase.READY)
    vm.ended_as = Ended(0)
    told = vm.ask(protocol.StopWorkload(force=False))
    assert told.events[-1] == protocol.Happened(protocol.LifeEvent.EXITED, 0)
    assert vm.restarts == 1
