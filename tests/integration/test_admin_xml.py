"""A domain that an admin has changed, and its child's, under a real libvirt and QEMU.

The guest is a hundred bytes of kernel (``test_private_libvirtd``): what libvirt adds to a domain
that runs, and what it refuses in one that is defined, is the machine's own.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from lxml import etree

from sevfork.domain.child import child_xml, links_to_plug, require_forkable
from sevfork.domain.elements import parse
from sevfork.domain.spec import GuestSpec, child_spec, random_mac
from sevfork.domain.template import Template, fork_ready_xml
from sevfork.domain.xml import require_agent_ready, spec_from_xml
from sevfork.host.hypervisor import Hypervisor
from tests.integration import test_private_libvirtd as private_libvirtd
from tests.support.admin_xml import OWN, edited

pytestmark = private_libvirtd.pytestmark
private, hypervisor = private_libvirtd.private, private_libvirtd.hypervisor
CHILD_UUID = "66666666-2222-4333-8444-555555555555"


@pytest.fixture
def parent(hypervisor: Hypervisor) -> GuestSpec:
    spec = private_libvirtd.guest(hypervisor, private_libvirtd.PATIENT_KERNEL)
    hypervisor.define(edited(spec))
    hypervisor.start(spec.uuid)
    return spec


def child_of(hypervisor: Hypervisor, parent: GuestSpec) -> GuestSpec:
    return child_spec(
        parent,
        name="tiny-fork",
        uuid=CHILD_UUID,
        mac=random_mac(),
        console_log=hypervisor.storage.path_of("tiny-fork.log"),
        metadata=replace(parent.metadata, volumes=("tiny-fork.log",), parent=parent.uuid),
    )


PORTS = """
    <controller type="pci" index="0" model="pcie-root"/>
    <controller type="pci" index="1" model="pcie-root-port"/>
    <controller type="pci" index="2" model="pcie-root-port"/>
"""


@pytest.mark.parametrize("ports", ["", PORTS, PORTS.splitlines()[2]])
def test_an_admins_own_domain_starts_and_so_does_what_libvirt_makes_of_it(
    hypervisor: Hypervisor, ports: str
) -> None:
    spec = private_libvirtd.guest(hypervisor, private_libvirtd.PATIENT_KERNEL)
    text = OWN.replace("768", str(spec.memory_mib)).replace("<devices>", "<devices>" + ports)
    own = replace(spec, mac="52:54:00:aa:bb:cc")
    hypervisor.define(fork_ready_xml(Template.read(text), own))
    hypervisor.start(own.uuid)
    live = hypervisor.xml(own.uuid)
    assert spec_from_xml(live) == own
    require_agent_ready(live)
    child = child_of(hypervisor, own)
    hypervisor.define(child_xml(live, child))
    hypervisor.start(child.uuid)


def addresses(domain: etree._Element) -> list[str]:
    """Which device is where on the guest's PCI bus."""
    return sorted(
        f"{device.tag} {sorted(map(str, address.attrib.items()))}"
        for device in domain.iterfind("devices/*")
        for address in device.findall("address[@type='pci']")
    )


def tags(domain: etree._Element) -> list[str]:
    return sorted(str(each.tag) for each in domain.iterfind("devices/*"))


def console_port(domain: etree._Element) -> str:
    console = domain.find("devices/graphics")
    assert console is not None
    return console.get("port", "")


def test_both_run_at_once_and_the_child_has_what_its_parent_has(
    hypervisor: Hypervisor, parent: GuestSpec
) -> None:
    live = hypervisor.xml(parent.uuid)
    require_forkable(live)
    child = child_of(hypervisor, parent)
    hypervisor.define(child_xml(live, child))
    hypervisor.start(child.uuid)
    theirs = hypervisor.xml(child.uuid)
    assert spec_from_xml(theirs) == child
    assert hypervisor.find(parent.uuid).state.active

    ours, made = parse(live), parse(theirs)
    assert len(addresses(ours)) > 10
    assert addresses(ours) == addresses(made), "a device of the guest has moved"
    assert tags(ours) == tags(made)
    for path in ("iothreads", "cputune/shares", "title"):
        assert made.findtext(path) == ours.findtext(path) is not None, path
    assert made.find("memoryBacking/nosharepages") is not None
    assert "virtio-rng-pci.max-bytes=4096" in theirs
    assert "OPS-4711" in theirs
    assert console_port(ours) != console_port(made) != ""

    assert links_to_plug(live, theirs) == (child.mac,)
    hypervisor.set_link(child.uuid, child.mac, up=True)
    links = parse(hypervisor.xml(child.uuid)).findall("devices/interface/link")
    assert [each.get("state") for each in links] == ["up", "down"]
