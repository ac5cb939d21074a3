"""An admin's own domain, made fork-ready."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree

from sevfork.domain.child import child_xml, require_forkable
from sevfork.domain.elements import parse
from sevfork.domain.spec import Accelerator
from sevfork.domain.template import Template, fork_ready_xml
from sevfork.domain.xml import domain_xml, spec_from_xml
from sevfork.errors import UsageError
from tests.support.admin_xml import OWN
from tests.support.guest_specs import CHILD, GUESTS, ROOT

GOLDEN = Path(__file__).parent / "golden"
TEMPLATE = Template.read(OWN)
SPEC = replace(ROOT, memory_mib=768, vcpus=1, mac="52:54:00:aa:bb:cc")


def made(text: str = OWN) -> etree._Element:
    return parse(fork_ready_xml(Template.read(text), SPEC))


def test_what_it_says_is_read() -> None:
    said = (TEMPLATE.accelerator, TEMPLATE.memory_mib, TEMPLATE.vcpus, TEMPLATE.mac)
    assert said == (Accelerator.TCG, 768, 1, "52:54:00:aa:bb:cc")


def test_what_it_does_not_say_is_left_to_others() -> None:
    said = Template.read("<domain><name>x</name></domain>")
    assert (said.accelerator, said.memory_mib, said.vcpus, said.mac) == (None,) * 4


def test_the_fork_ready_domain_is_the_golden_one() -> None:
    path, got = GOLDEN / "own.xml", fork_ready_xml(TEMPLATE, SPEC)
    if os.environ.get("SEVFORK_REGENERATE"):
        path.write_text(got)
    assert got == path.read_text()


@pytest.mark.parametrize("text", [OWN, "<domain/>", "<domain><devices/></domain>"])
def test_it_is_a_vm_as_any_other_and_can_be_forked(text: str) -> None:
    ready = fork_ready_xml(Template.read(text), SPEC)
    read = spec_from_xml(ready)
    assert replace(read, mac=SPEC.mac) == SPEC
    require_forkable(ready)
    assert spec_from_xml(child_xml(ready, CHILD)).name == CHILD.name


@pytest.mark.parametrize("kind", ["root-snp", "root-tdx"])
def test_on_hardware_it_has_what_the_technology_needs(kind: str) -> None:
    text = OWN.replace('type="qemu"', 'type="kvm"').replace(
        "<features>", "<features><smm state='on'/>"
    )
    ready = parse(fork_ready_xml(Template.read(text), GUESTS[kind]))
    ours = parse(domain_xml(GUESTS[kind]))
    for path in ("launchSecurity", "os/loader", "features/smm", "devices/interface/rom"):
        theirs = ready.findall(path)
        assert len(theirs) == 1
        assert theirs[0].attrib == ours.find(path).attrib  # type: ignore[union-attr]


def test_the_image_decides_the_cpu_and_the_admin_its_cells() -> None:
    cpu = made().find("cpu")
    assert cpu is not None
    assert cpu.get("mode") == "maximum"
    assert cpu.find("numa/cell") is not None
    assert len(cpu.findall("feature[@name='cx16']")) == 1


def test_the_first_serial_port_is_sevforks_log() -> None:
    ports = made().findall("devices/serial")
    assert [each.get("type") for each in ports] == ["file", "pty"]
    assert made().find("devices/console") is None


REFUSED = {
    "os/kernel": "<os><kernel>/theirs</kernel></os>",
    "os/cmdline": "<os><cmdline>init=/bin/sh</cmdline></os>",
    "os/loader": "<os><loader>/theirs.fd</loader></os>",
    "launchSecurity": "<launchSecurity type='sev-snp'/>",
    "not 'q35'": "<os><type machine='pc-i440fx-7.2'>hvm</type></os>",
    "not 'x86_64'": "<os><type arch='aarch64'>hvm</type></os>",
    "not 'virtio'": "<devices><interface><model type='e1000'/></interface></devices>",
    "not 'user'": "<devices><interface type='network'/></devices>",
    "not 'default'": "<devices><interface><backend type='passt'/></interface></devices>",
    "'org.sevfork.agent.0'": "<devices><channel><target name='org.sevfork.agent.0'/></channel>"
    "</devices>",
    "'sevfork-root'": "<devices><disk><serial>sevfork-root</serial></disk></devices>",
    "shmem 'pool'": "<devices><shmem name='pool'/></devices>",
    "disk 'vda'": "<devices><disk type='file'><source file='/x'/><target dev='vda'/></disk>"
    "</devices>",
    "nvram": "<os><nvram>/x</nvram></os>",
    "CPU mode": "<cpu mode='host-passthrough'/>",
    "CPU model": "<cpu><model>EPYC</model></cpu>",
    "vCPUs": "<vcpu>many</vcpu>",
    "barrels": "<memory unit='barrels'>7</memory>",
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_contradicts_a_fork_is_refused_by_name(why: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(f"<domain>{REFUSED[why]}</domain>")
    assert why in caught.value.message


@pytest.mark.parametrize("text", ["", "web", "<network/>", "<domain>", "<domain type='xen'/>"])
def test_what_is_no_domain_of_qemus_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Template.read(text)
