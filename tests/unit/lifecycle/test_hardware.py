"""Forks on SEV-SNP and TDX: real agents on both sides, signed for by a fake AMD and a fake Intel.

A fault in any one link is refused by the check that is there for it, and the parent serves on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from sevfork.attest.evidence import Evidence
from sevfork.attest.snp.report import Tcb
from sevfork.domain.xml import spec_from_xml
from sevfork.errors import AttestationFailed
from sevfork.lifecycle.fork import ForkRequest, plan_fork, run_fork
from sevfork.lifecycle.snapshot.update import update_snapshot
from sevfork.lifecycle.snapshot.volume import plugged_snapshot
from sevfork.lifecycle.warm.make import Freshness, make_warm
from sevfork.technology import Technology
from sevfork.verifier.attest import attest
from sevfork.wire import protocol
from tests.support import fake_amd
from tests.support.certificate_memory import remember_certificates
from tests.support.fake_amd import EXPIRED, VALID, authority, revocation_list
from tests.support.fake_guests import STATE, shorten_pauses
from tests.support.fake_intel import platform_level
from tests.support.hardware_house import (
    LASTING,
    AmdMachine,
    HardwareGuest,
    HardwareHouse,
    IntelMachine,
    Machine,
    policy_for,
)
from tests.support.jobs import job_on

AMD, INTEL = AmdMachine(), IntelMachine()
MACHINES: dict[str, Machine] = {"snp": AMD, "tdx": INTEL}
DAY = timedelta(days=1)
LONG_AGO = datetime(2025, 6, 1, tzinfo=UTC)
REVOKING = revocation_list(
    number=2,
    revoked=(authority("SEV-Milan", "ARK-Milan", "ARK").serial_number,),
    valid=(VALID[0] + DAY, VALID[1]),
)
# The host's look at a guest's report is the first, its own at the configuration the second.
JOIN = 3
# One more look of the host's, when a fork begins, comes before that of a parent.
GRANT = 4


@pytest.fixture(autouse=True, scope="module")
def _certificates_are_read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        remember_certificates(patched)
        yield


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> Machine:
    return MACHINES[request.param]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, _steady_memory: None) -> Path:
    """The folder that volumes are found in."""
    for module in ("captures", "unsealed"):
        monkeypatch.setattr(f"sevfork.agent.{module}.find_volume", lambda serial: tmp_path / serial)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    shorten_pauses(monkeypatch)
    return tmp_path


@pytest.fixture
def house(machine: Machine, found: Path) -> HardwareHouse:
    return HardwareHouse(found, machine)


def kind_of(machine: Machine) -> str:
    return "tdx" if machine.technology is Technology.TDX else "snp"


def check_that_failed(caught: pytest.ExceptionInfo[AttestationFailed]) -> str:
    """The first one, by the words that went over the channel."""
    words = caught.value.message.removeprefix("the evidence was rejected: ")
    return words.partition(": wanted")[0]


def assert_serves_on(house: HardwareHouse, parent: HardwareGuest) -> None:
    house.signs = house.honestly
    assert parent.state == STATE
    assert house.fork().children[0].error is None


# As it should be.


def test_children_are_forked_with_what_the_host_has_brought(house: HardwareHouse) -> None:
    house.up()
    outcome = house.fork(count=2)
    for child in outcome.children:
        guest = house.guests[child.uuid]
        assert (guest.state, guest.generation, guest.network_up) == (STATE, 1, True)
    handed = [each for each in house.heard if isinstance(each, protocol.Endorse)]
    assert len(handed) == 4, "the root, again when it was forked, and each child"
    evidence = house.machine.evidence(bytes(64), bytes(48), bytes(32))
    assert evidence.certificates == b"", "the kernel has none of it"


def test_what_was_got_once_serves_a_host_without_a_network(house: HardwareHouse) -> None:
    house.up()
    house.web.down = True
    assert house.fork().children[0].error is None


def test_a_child_can_be_forked(house: HardwareHouse) -> None:
    house.up()
    house.fork()
    (child,) = run_fork(house.job(), plan_fork(house, ForkRequest("web-fork"))).children
    assert house.guests[child.uuid].generation == 2


def test_warm_children_are_made_and_taken(house: HardwareHouse) -> None:
    house.up()
    job, spec = house.job(), spec_from_xml(house.xml(house.find("web").uuid))
    update_snapshot(job, spec)
    snapshot = plugged_snapshot(house, spec.uuid)
    assert snapshot is not None
    make_warm(job, plan_fork(house, ForkRequest("web", cold=True)), snapshot, Freshness(600.0))
    (child,) = house.fork().children
    assert (child.warm, house.guests[child.uuid].state) == (True, STATE)


def test_attest_shows_evidence_with_all_that_it_is_checked_by(house: HardwareHouse) -> None:
    house.up()
    spec = spec_from_xml(house.xml(house.find("web").uuid))
    policy = policy_for(house.machine).attest
    attested = attest(house.job(), spec, policy, datetime.now(UTC))
    assert attested.verdict.passed


# What the host brings, or does not.


def test_a_vm_without_what_it_is_checked_by_is_refused_with_the_command_that_gets_it(
    house: HardwareHouse,
) -> None:
    house.web.down = True
    with pytest.raises(AttestationFailed) as caught:
        house.up()
    assert check_that_failed(caught) in ("certificates", "collateral")
    kept = house.folder / "cache/sevfork/certificates-wanted.evidence"
    assert f"'sevfork certs fetch {kept}'" in (caught.value.hint or "")
    assert "no route" in (caught.value.hint or "")
    assert not house.domains()
    # What the command does, on a machine with a network.
    house.web.down = False
    assert not house.sources(anew=True).gather(Evidence.decode(kept.read_bytes())).missing
    house.web.down = True
    house.up()


def test_a_host_that_hands_over_nothing_gets_no_vm(house: HardwareHouse) -> None:
    with pytest.raises(AttestationFailed) as caught:
        house.up(job_on(house))
    assert "sevfork certs fetch VM" in (caught.value.hint or "")


RUN_OUT: list[tuple[Machine, str]] = [
    (AMD.but(crl=revocation_list(valid=EXPIRED)), "validity of the revocation list"),
    (
        INTEL.but(crl_issued=LONG_AGO, crl_until=LONG_AGO + DAY),
        "validity of the root revocation list",
    ),
    (INTEL.but(tcb={"nextUpdate": "2026-03-22T10:00:00Z"}), "validity of the TCB info"),
    (INTEL.but(qe={"nextUpdate": "2026-03-22T10:00:00Z"}), "validity of the QE identity"),
]


@pytest.mark.parametrize(("machine", "check"), RUN_OUT)
def test_what_has_run_out_ends_forks_by_the_check_of_its_time(
    found: Path, machine: Machine, check: str
) -> None:
    """A machine that is up and whose vendor, or whose host, has nothing newer."""
    house = HardwareHouse(found, MACHINES[kind_of(machine)])
    house.up()
    house.web.pages = machine.pages
    house.folder.joinpath("cache").rename(house.folder / "lost")
    with pytest.raises(AttestationFailed) as caught:
        house.fork()
    assert check_that_failed(caught) == check
    assert "sevfork certs fetch" in (caught.value.hint or "")


REVOKED: dict[str, Machine] = {
    "snp": AMD.but(crl=REVOKING),
    "tdx": INTEL.but(revoked_by_ca=(77,), crl_issued=datetime(2026, 3, 1, tzinfo=UTC)),
}


def test_a_revocation_that_was_published_since_ends_forks(house: HardwareHouse) -> None:
    parent = house.up()
    house.web.pages = REVOKED[kind_of(house.machine)].pages
    with pytest.raises(AttestationFailed) as caught:
        house.fork(house.job(anew=True))
    assert check_that_failed(caught) in ("ASK", "revocation of the PCK certificate")
    # The host goes back to the old list; the parent, which has seen the new one, does not.
    house.web.pages = house.machine.pages
    with pytest.raises(AttestationFailed) as again:
        house.fork(house.job(anew=True))
    assert check_that_failed(again) == check_that_failed(caught)
    assert parent.state == STATE


# Where a peer may run.


OTHERS: dict[str, tuple[Machine, Machine]] = {
    "snp": (AMD.but(chip_id=b"\xd2" * 64), AMD.but(chip_id=b"\xe3" * 64)),
    "tdx": (INTEL.but(ppid=b"\xd2" * 16), INTEL.but(ppid=b"\xe3" * 16)),
}


def moved(house: HardwareHouse, machine: Machine) -> None:
    """Children are launched on another machine, whose host has its certificates."""
    there = machine.with_certificates()
    parent = next(iter(house.guests.values()))
    house.signs = lambda guest: (house.machine if guest is parent else there, guest.report_id)


def test_one_chip_means_the_parents(house: HardwareHouse) -> None:
    parent = house.up()
    moved(house, OTHERS[kind_of(house.machine)][0])
    with pytest.raises(AttestationFailed) as caught:
        house.fork()
    assert check_that_failed(caught) == "same chip"
    assert_serves_on(house, parent)


@pytest.mark.parametrize("name", MACHINES)
def test_a_list_of_chips_has_those_on_it_and_no_other(found: Path, name: str) -> None:
    here, (listed, other) = MACHINES[name], OTHERS[name]
    house = HardwareHouse(found, here, policy_for(here, [here.chip, listed.chip]))
    parent = house.up()
    moved(house, listed)
    assert house.fork().children[0].error is None
    moved(house, other)
    with pytest.raises(AttestationFailed) as caught:
        house.fork()
    assert check_that_failed(caught) in ("accepted chips", "accepted platforms")
    assert_serves_on(house, parent)


# A fault in any one link: a peer that boots right, and is something else when it counts.


def _td(**fields: bytes) -> IntelMachine:
    return INTEL.but(td={**INTEL.intel.td, **fields})


FAULTS: dict[str, tuple[Machine, str]] = {
    "snp firmware below the floor": (AMD.but(tcb=Tcb(4, 0, 0x10, 219)), "TCB of the certificate"),
    "snp microcode below the floor": (AMD.but(tcb=Tcb(4, 0, 24, 100)), "TCB of the certificate"),
    "snp another TCB than certified": (AMD.but(certified_tcb=Tcb(9, 9, 99, 255)), "reported TCB"),
    "snp revoked": (AMD.but(crl=REVOKING), "ASK"),
    "snp list of nobody": (AMD.but(crl=revocation_list(key="ASK")), "revocation list"),
    "snp leaf expired": (AMD.but(leaf_valid=EXPIRED), "validity of the leaf"),
    "snp leaf of a VLEK": (AMD.but(leaf_name="SEV-VLEK"), "name of the leaf"),
    "snp certificate of another chip": (
        AMD.but(hardware_id=b"\xd2" * 64), "hardware id of the certificate",
    ),
    "snp debugging": (AMD.but(policy=0x30000 | 1 << 19), "guest policy"),
    "snp VMPL 1": (AMD.but(patches={**AMD.part.patches, 0x30: b"\1"}), "VMPL"),
    "snp no alias check": (AMD.but(patches={}), "platform, required"),
    "snp another launch": (
        AMD.but(patches={**AMD.part.patches, 0x90: b"\x99"}), "launch identity",
    ),
    "snp another configuration": (
        AMD.but(patches={**AMD.part.patches, 0xC0: b"\x99" * 32}), "launch configuration",
    ),
    "snp a replayed report": (
        AMD.but(patches={**AMD.part.patches, 0x50: b"\x99" * 64}), "report data",
    ),
    "tdx RTMR3 not zero": (_td(rtmr3=b"\1" * 48), "RTMR3"),
    "tdx RTMR1 of another kernel": (_td(rtmr1=b"\1" * 48), "launch identity"),
    "tdx another firmware": (_td(mrtd=b"\1" * 48), "launch identity"),
    "tdx another configuration": (_td(mrconfigid=b"\1" * 48), "launch configuration"),
    "tdx a replayed quote": (_td(report_data=b"\1" * 64), "report data"),
    "tdx debugging": (_td(td_attributes=(1 << 28 | 1).to_bytes(8, "little")), "TD attributes"),
    "tdx another module": (_td(mrsignerseam=b"\1" * 48), "TCB of the TDX module at launch"),
    "tdx PCK revoked": (INTEL.but(revoked_by_ca=(77,)), "revocation of the PCK certificate"),
    "tdx PCK issuer revoked": (INTEL.but(revoked_by_root=(78,)), "revocation of the PCK issuer"),
    "tdx TCB signer revoked": (
        INTEL.but(revoked_by_root=(79,)), "revocation of the TCB info's signing chain",
    ),
    "tdx TCB evaluation below the floor": (
        INTEL.but(tcb={**LASTING, "tcbEvaluationDataNumber": 17}),
        "TCB evaluation number of the TCB info",
    ),
    "tdx platform out of date": (
        INTEL.but(tcb={**LASTING, "tcbLevels": [platform_level("OutOfDate")]}), "TCB status",
    ),
    "tdx collateral of another platform": (
        INTEL.but(tcb={**LASTING, "fmspc": "00" * 6}), "FMSPC and PCE id of the TCB info",
    ),
    "tdx a quoting enclave of somebody's": (INTEL.but(qe_mrsigner=b"\1" * 32), "quoting enclave"),
    "tdx a key that the QE does not name": (INTEL.but(bound_key="other"), "attestation key"),
}  # fmt: skip


def faulty_from(number: int, machine: Machine) -> Callable[[HardwareGuest], Machine]:
    """Signed for by this machine from a guest's n-th evidence on."""
    faulty, good = machine.with_certificates(), MACHINES[kind_of(machine)]
    return lambda guest: faulty if guest.asked >= number else good


@pytest.mark.parametrize("fault", FAULTS)
def test_a_parent_refuses_a_child_with_a_fault(found: Path, fault: str) -> None:
    machine, check = FAULTS[fault]
    house = HardwareHouse(found, MACHINES[kind_of(machine)])
    parent = house.up()
    signer = faulty_from(JOIN, machine)
    house.signs = lambda guest: (
        house.machine if guest is parent else signer(guest), guest.report_id,
    )  # fmt: skip
    with pytest.raises(AttestationFailed) as caught:
        house.fork()
    assert check_that_failed(caught) == check
    assert not [each for each in house.heard if isinstance(each, protocol.Restore)]
    assert_serves_on(house, parent)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_child_refuses_a_parent_with_a_fault(found: Path, fault: str) -> None:
    machine, check = FAULTS[fault]
    house = HardwareHouse(found, MACHINES[kind_of(machine)])
    parent = house.up()
    signer = faulty_from(GRANT, machine)
    house.signs = lambda guest: (
        signer(guest) if guest is parent else house.machine, guest.report_id,
    )  # fmt: skip
    with pytest.raises(AttestationFailed) as caught:
        house.fork()
    assert check_that_failed(caught) == check
    assert parent.asked == GRANT
    assert [domain.name for domain in house.domains()] == ["web"]


def test_a_report_with_the_parents_own_id_is_not_another_vm(found: Path) -> None:
    house = HardwareHouse(found, AMD)
    parent = house.up()
    house.signs = lambda _guest: (AMD, parent.report_id)
    with pytest.raises(AttestationFailed) as caught:
        house.fork()
    assert check_that_failed(caught) == "report id"
    assert_serves_on(house, parent)


def test_evidence_under_another_root_is_refused(found: Path) -> None:
    """A chain that is good in itself, of an AMD whose root the measured policy does not pin."""
    policy = policy_for(AMD)
    roots = tuple(root for root in policy.attest.roots if root not in fake_amd.roots()[:1])
    strict = replace(policy, attest=msgspec.structs.replace(policy.attest, roots=roots))
    with pytest.raises(AttestationFailed) as caught:
        HardwareHouse(found, AMD, strict).up()
    assert check_that_failed(caught) == "root"
