"""Siblings are not twins where programs draw random numbers: their TLS servers never repeat."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.tls_client import Connection, Version, connect
from tests.vm.lab import Lab, Vm

ROUNDS = 3
GET = b"GET / HTTP/1.0\r\n\r\n"


@dataclass(frozen=True)
class Family:
    """A TLS server, forked with its generators seeded: each VM, and sessions from before."""

    workload: str
    parent: Vm
    children: list[Vm]
    former: dict[Version, ssl.SSLSession]

    @property
    def vms(self) -> list[Vm]:
        return [self.parent, *self.children]

    def connect(self, vm: Vm, **options: Any) -> Connection:
        request = GET if self.workload == "nginx-tls" else b""
        return connect(vm.address, request, **options)


@pytest.fixture(scope="module", params=["tls", "nginx-tls"])
def family(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Family]:
    parent = lab.up(request.param)
    made = Family(request.param, parent, [], {})
    for version in Version:
        session = made.connect(parent, version=version).session
        assert session is not None
        made.former[version] = session
    made.children.extend(lab.fork(parent, "-n", "2")[1])
    yield made
    lab.remove(*made.vms)


def test_no_two_servers_draw_the_same(family: Family) -> None:
    hellos = [family.connect(vm) for vm in family.vms for _ in range(ROUNDS)]
    assert len({hello.random for hello in hellos}) == len(hellos)
    assert len({hello.key_share for hello in hellos}) == len(hellos)


def test_no_two_servers_have_the_same_key_of_session_tickets(family: Family) -> None:
    names = [
        {family.connect(vm, version=Version.TLS12).ticket_name for _ in range(ROUNDS)}
        for vm in family.vms
    ]
    assert [len(each) for each in names] == [1, 1, 1], "a key is drawn once, not each time"
    assert len(set.union(*names)) == 3


@pytest.mark.parametrize("version", Version)
def test_a_session_is_resumed_where_it_was_begun_and_nowhere_else(
    family: Family, version: Version
) -> None:
    sessions = [family.connect(vm, version=version).session for vm in family.vms]
    for vm in family.vms:
        resumed = [
            family.connect(vm, version=version, session=each).resumed
            for each in (family.former[version], *sessions)
        ]
        former = vm is family.parent
        assert resumed == [former, *(vm is other for other in family.vms)]


# ---- What the server of ours says of itself ----

ours = pytest.mark.parametrize("family", ["tls"], indirect=True)


def told(family: Family, vm: Vm) -> list[dict[str, Any]]:
    return [json.loads(family.connect(vm).said) for _ in range(ROUNDS)]


@ours
def test_openssls_generator_never_repeats(family: Family) -> None:
    drawn = [each["random"] for vm in family.vms for each in told(family, vm)]
    assert len(set(drawn)) == len(drawn)


@ours
def test_programs_see_their_true_pid(family: Family) -> None:
    (pid,) = {each["pid"] for vm in family.vms for each in told(family, vm)}
    assert 0 < pid < 100


@ours
def test_pages_marked_wipe_on_fork_are_zero_in_children_only(family: Family) -> None:
    assert all(each["page_kept"] for each in told(family, family.parent))
    assert all(each["page_wiped"] for vm in family.children for each in told(family, vm))
