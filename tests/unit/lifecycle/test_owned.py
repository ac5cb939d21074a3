"""An owned VM on a hypervisor in memory: it forks for nobody until its owner has adopted it."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from sevfork.domain import metadata_xml
from sevfork.domain.spec import GuestSpec
from sevfork.errors import RefusedByGuest
from sevfork.handshake import Lineage, owner_digest
from sevfork.handshake.launch import LaunchConfig
from sevfork.image.image import Image
from sevfork.lifecycle import launching
from sevfork.lifecycle.agents import greet_agent
from sevfork.lifecycle.find import running_vm
from sevfork.lifecycle.fork import ForkRequest, plan_fork, run_fork
from sevfork.owner.asking import encoded_lineage, hand_over
from sevfork.wire import protocol
from tests.support.fake_guests import FakeHouse
from tests.support.image_factory import write_image
from tests.support.jobs import job_on
from tests.support.owners import OWNER_DIGEST, certificate_for, owned_root


@pytest.fixture
def owned(house: FakeHouse, tmp_path: Path) -> GuestSpec:
    return owned_root(house, Image.load(write_image(tmp_path / "image")))


def adopt(house: FakeHouse, spec: GuestSpec) -> None:
    with greet_agent(job_on(house), spec) as agent:
        deadline = job_on(house).deadline
        root = agent.ask(protocol.GetStatus(), protocol.Status, deadline=deadline).instance_key
    hand_over(job_on(house), spec, certificate_for(root))


def lineage(house: FakeHouse, name: str) -> Lineage:
    _, spec = running_vm(house, name, "tell")
    return Lineage.decode(encoded_lineage(job_on(house), spec))


def fork(house: FakeHouse, name: str) -> None:
    run_fork(job_on(house), plan_fork(house, ForkRequest(name)))


def test_an_owned_vm_that_is_not_adopted_cannot_be_forked(
    house: FakeHouse, owned: GuestSpec
) -> None:
    with pytest.raises(RefusedByGuest, match="has not adopted it") as refused:
        fork(house, "web")
    assert refused.value.hint is not None
    assert "sevfork owner adopt web --policy" in refused.value.hint
    adopt(house, owned)
    fork(house, "web")


def test_a_family_has_its_owner_in_every_launch_and_every_lineage(
    house: FakeHouse, owned: GuestSpec
) -> None:
    adopt(house, owned)
    fork(house, "web")
    fork(house, "web-fork")
    for generation, name in enumerate(("web", "web-fork", "web-fork-fork")):
        descent = lineage(house, name)
        descent.verify(OWNER_DIGEST)
        assert descent.generation == generation
        metadata = metadata_xml.from_domain(house.xml(house.find(name).uuid))
        assert metadata is not None
        assert metadata.owner == OWNER_DIGEST


def test_a_child_that_is_launched_for_another_tenant_gets_nothing(
    house: FakeHouse, owned: GuestSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host names another owner, to the child's processor and to its agent alike."""
    adopt(house, owned)

    class TheirConfig(LaunchConfig, frozen=True):
        @classmethod
        def decode(cls, data: bytes) -> LaunchConfig:
            return replace(LaunchConfig.decode(data), owner=owner_digest(b"t" * 32))

    monkeypatch.setattr(launching, "LaunchConfig", TheirConfig)
    with pytest.raises(RefusedByGuest, match="another owner"):
        fork(house, "web")
    assert [domain.name for domain in house.domains()] == ["web"]


def test_a_child_takes_no_certificate(house: FakeHouse, owned: GuestSpec) -> None:
    adopt(house, owned)
    fork(house, "web")
    _, child = running_vm(house, "web-fork", "be adopted")
    with pytest.raises(RefusedByGuest, match="is a child"):
        adopt(house, child)
