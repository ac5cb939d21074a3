"""A child after the fork: its identity, its clocks, and its silence before its hooks passed."""

from __future__ import annotations

import json
import struct
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest

from sevfork.domain.xml import spec_from_xml
from sevfork.host.hypervisor import Hypervisor
from sevfork.lifecycle.fork import ForkedChild, ForkRequest, plan_fork
from sevfork.lifecycle.fork.capture import captured
from sevfork.lifecycle.fork.child import make_child
from sevfork.lifecycle.fork.launch import Choices
from sevfork.lifecycle.undo import Undo
from tests.support.jobs import job_on
from tests.vm.lab import Lab, Vm

HOOK_S = 4
# The time stamps of QEMU's packet dump start at a whole second.
COARSE_S = 1.5


class Listening:
    """A host that listens to the network of each guest from its start."""

    def __init__(self, hypervisor: Hypervisor, dump: Path) -> None:
        self._hypervisor, self._dump = hypervisor, dump

    def __getattr__(self, name: str) -> object:
        return getattr(self._hypervisor, name)

    def start(self, uuid: str) -> None:
        self._hypervisor.start(uuid)
        filter_dump = {
            "execute": "object-add",
            "arguments": {
                "qom-type": "filter-dump",
                "id": "listener",
                "netdev": "hostnet0",
                "file": str(self._dump),
            },
        }
        subprocess.run(
            ["virsh", "-c", self._hypervisor.uri, "qemu-monitor-command", uuid]
            + [json.dumps(filter_dump)],
            check=True,
            capture_output=True,
            timeout=60,
        )


@dataclass(frozen=True)
class Forked:
    """One fork of the observer, and what was seen around it."""

    parent: Vm
    child: Vm
    made: ForkedChild
    before: dict[str, object]
    restore_began: float
    packet_times: list[float]


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
    job = job_on(cast("Hypervisor", Listening(hypervisor, dump)), seconds=300, watch=watch)
    plugged_in = Choices(domain=lambda spec: replace(spec, link_up=True))
    with Undo() as undo, captured(job, plan) as capture:
        made = make_child(job, capture, 0, undo, plugged_in)
    time.sleep(3)
    child = Vm(made.name, made.uuid, ("127.0.0.1", made.ports[0].host))
    times = packet_times(dump.read_bytes())
    return Forked(parent, child, made, before, began[0], times)


def packet_times(dump: bytes) -> list[float]:
    """Seconds since the epoch of each packet in a pcap file (24-byte header, 16-byte records)."""
    times, at = [], 24
    while at + 16 <= len(dump):
        seconds, micros, size = struct.unpack_from("<III", dump, at)
        times.append(seconds + micros / 1e6)
        at += 16 + size
    return times


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


def test_the_parent_went_on_meanwhile(forked: Forked, lab: Lab) -> None:
    after = forked.parent.json("/observe")
    assert after["went_back"] == 0
    assert after["sent"] > int(str(forked.before["sent"]))
    lab.remove(forked.child, forked.parent)
