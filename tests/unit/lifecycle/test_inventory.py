"""``ls``: who descends from whom."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sevfork.domain import metadata_xml
from sevfork.domain.metadata import Metadata, Phase, PublishedPort
from sevfork.handshake.launch import Role
from sevfork.host.hypervisor import Domain, DomainState
from sevfork.lifecycle import inventory
from sevfork.technology import Technology


def vm(
    name: str,
    parent: str | None = None,
    *,
    state: DomainState = DomainState.RUNNING,
    phase: Phase = Phase.READY,
) -> Domain:
    metadata = Metadata(
        technology=Technology.SIMULATED,
        role=Role.CHILD if parent else Role.ROOT,
        phase=phase,
        image="redis",
        cpu_model="maximum",
        generation=1 if parent else 0,
        parent=parent,
        parent_name=parent,
        ports=(PublishedPort(16379, 6379),),
    )
    return Domain(name, name, 1, state, 1024, 1, metadata_xml.write(metadata))


def drawn(*domains: Domain) -> list[str]:
    trees = inventory.forest(inventory.vms(domains))
    return [lead + each.domain.name for lead, each in inventory.lines(trees)]


def test_a_tree_is_drawn() -> None:
    assert drawn(vm("a"), vm("b", "a"), vm("c", "b"), vm("d", "a"), vm("e")) == [
        "a",
        "├─ b",
        "│  └─ c",
        "└─ d",
        "e",
    ]


def test_a_child_whose_parent_is_gone_stands_at_the_top() -> None:
    assert drawn(vm("child", "gone")) == ["child"]


def test_a_circle_does_not_hang_and_everybody_is_shown_once() -> None:
    assert sorted(line[-1] for line in drawn(vm("a", "b"), vm("b", "a"), vm("c", "c"))) == [
        "a",
        "b",
        "c",
    ]


def test_vms_of_others_are_not_listed() -> None:
    theirs = Domain("theirs", "u", None, DomainState.RUNNING, 1, 1, None)
    assert inventory.vms([theirs]) == ()


def test_a_vm_that_cannot_be_read_is_listed_with_the_reason() -> None:
    (broken,) = inventory.vms([Domain("x", "u", None, DomainState.SHUT_OFF, 1, 1, "<vm/>")])
    document = inventory.document(broken)
    assert (document["name"], document["state"]) == ("x", "shut off")
    assert "cannot be read" in str(document["unreadable"])


@pytest.mark.parametrize(
    ("domain", "state", "ports"),
    [
        (vm("a"), "running", 1),
        (vm("a", phase=Phase.FORMING), "forming", 1),
        (vm("a", state=DomainState.SHUT_OFF), "shut off", 0),
        (vm("a", state=DomainState.SHUT_OFF, phase=Phase.FORMING), "shut off", 0),
    ],
)
def test_state_and_ports_are_those_of_now(domain: Domain, state: str, ports: int) -> None:
    (listed,) = inventory.vms([domain])
    document = inventory.document(listed)
    assert document["state"] == state
    assert len(document["ports"]) == ports  # type: ignore[arg-type]


def test_json_says_that_simulated_is_not_confidential() -> None:
    (listed,) = inventory.vms([vm("a")])
    document = inventory.document(listed)
    assert document["confidential"] is False
    assert document["technology_label"] == "simulated, not confidential"


def test_a_parent_that_was_renamed_is_shown_by_its_name_now() -> None:
    renamed = replace(vm("a"), name="shop")
    child, _ = inventory.vms([vm("b", "a"), renamed])
    assert child.metadata is not None
    assert child.metadata.parent_name == "shop"
    (orphan,) = inventory.vms([vm("b", "a")])
    assert orphan.metadata is not None
    assert orphan.metadata.parent_name == "a"
