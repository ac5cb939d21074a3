"""A child after the fork: its identity, its clocks, and its silence before its hooks passed.

And a secret in the workload's memory, which is found nowhere in what leaves the guest. The same
search finds it in the simulated guest's RAM, which is not encrypted: so it can fail.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest

from sevfork.domain.xml import spec_from_xml
from sevfork.host.hypervisor import Hypervisor
from sevfork.lifecycle.fork import ForkedChild, ForkRequest, plan_fork
from sevfork.lifecycle.fork.child import make_child
from sevfork.lifecycle.fork.launch import Choices
from sevfork.lifecycle.undo import Undo
from tests.support.jobs import captured_fork, job_on
from tests.vm.eavesdropping import (
    Listening,
    consoles,
    decoded,
    found_in,
    logs,
    memory_of,
    packet_times,
)
from tests.vm.lab import Lab, Vm

HOOK_S = 4
# The time stamps of QEMU's packet dump start at a whole second.
COARSE_S = 1.5


@dataclass(frozen=True)
class Forked:
    """One fork of the observer, and what was seen around it."""

    parent: Vm
    child: Vm
    made: ForkedChild
    before: dict[str, object]
    restore_began: float
    packet_times: list[float]
    left_the_guest: dict[str, bytes]


@pytest.fixture(scope="module")
def forked(lab: Lab, hypervisor: Hypervisor, tmp_path_factory: pytest.TempPathFactory) -> Forked:
    parent = lab.up("observer")
    before = parent.json("/observe")
    began: list[float] = []

    def watch(who: str, phase: str, done: int = 0, total: int = 0) -> None:
        if phase == "restore":
            began.append(time.time())

    plan = plan_fork(hypervisor, ForkRequest(parent.name))
    dump = tmp_path_factory.mktemp("net") / "packets"
    listening = Listening(hypervisor, dump)
    job = job_on(cast("Hypervisor", listening), seconds=300, watch=watch)
    plugged_in = Choices(domain=lambda spec: replace(spec, link_up=True))
    with Undo() as undo, captured_fork(job, plan) as (fork, capture):
        sealed = Path(capture.volume.path).read_bytes()[: capture.sealed_bytes + 4096]
        made = make_child(job, fork, 0, undo, plugged_in)
    time.sleep(3)
    child = Vm(made.name, made.uuid, ("127.0.0.1", made.ports[0].host))
    packets = dump.read_bytes()
    left_the_guest = {
        "the sealed volume": sealed,
        "the control channels": b"".join(decoded(bytes(each)) for each in listening.traffic),
        "the network": packets,
        "the serial consoles": consoles(hypervisor, parent, child),
        "libvirt's and QEMU's logs": logs(),
    }
    return Forked(parent, child, made, before, began[0], packet_times(packets), left_the_guest)


def test_no_packet_left_before_the_hooks_had_passed(forked: Forked) -> None:
    assert forked.packet_times, "nothing was heard at all, so the silence proves nothing"
    silence_s = min(forked.packet_times) - forked.restore_began
    assert silence_s > HOOK_S - COARSE_S, f"a packet left {silence_s:.1f} s after the restore began"


def test_the_monotonic_clock_did_not_go_back(forked: Forked) -> None:
    after = forked.child.json("/observe")
    assert after["went_back"] == 0, f"by {after['furthest_back_s']} s"
    before = forked.before["monotonic_s"]
    assert isinstance(before, float)
    assert before < after["monotonic_s"] < before + 300, "it went back, or leapt ahead"


def test_the_wall_clock_is_right(forked: Forked) -> None:
    assert abs(forked.child.json("/observe")["wall_s"] - time.time()) < 3


def test_identity_is_the_childs_own(forked: Forked) -> None:
    parent, child = forked.parent.json("/observe"), forked.child.json("/observe")
    for what in ("machine_id", "host_name", "generation", "random"):
        assert parent[what] != child[what], what
    assert parent["generation"] == forked.before["generation"]
    assert bytes.fromhex(child["generation"])[0] == 1


def test_the_mac_address_is_the_childs_own(forked: Forked, hypervisor: Hypervisor) -> None:
    specs = [spec_from_xml(hypervisor.xml(vm.uuid)) for vm in (forked.parent, forked.child)]
    assert specs[0].mac != specs[1].mac


def test_a_secret_leaves_the_guest_nowhere(
    forked: Forked, hypervisor: Hypervisor, tmp_path: Path
) -> None:
    memory = memory_of(hypervisor, forked.parent, tmp_path)
    # Only now does the test learn what to look for.
    _, secret = forked.child.get("/reveal")
    assert len(secret) == 2**20
    assert forked.parent.get("/digest")[1] == hashlib.sha256(secret).hexdigest().encode()

    assert found_in(secret, memory) > 500, "the search does not find what is there"
    for place, data in forked.left_the_guest.items():
        assert len(data) > 100, f"nothing was collected of {place}"
        assert found_in(secret, data) == 0, f"the secret is in {place}"


def test_the_parent_went_on_meanwhile(forked: Forked, lab: Lab) -> None:
    after = forked.parent.json("/observe")
    assert after["went_back"] == 0
    assert after["sent"] > int(str(forked.before["sent"]))
    lab.remove(forked.child, forked.parent)
