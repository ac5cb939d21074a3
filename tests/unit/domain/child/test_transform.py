"""A child's domain, made of one that an admin has changed: a golden file, and each rule of it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree

from sevfork.domain.child import (
    Plan,
    child_xml,
    links_to_plug,
    planned_devices,
    require_forkable,
    without_passwords,
)
from sevfork.domain.elements import parse, to_text
from sevfork.domain.xml import domain_xml, spec_from_xml
from sevfork.errors import WrongState
from tests.support.admin_xml import edited, tuned
from tests.support.guest_specs import CHILD, GUESTS, ROOT

GOLDEN = Path(__file__).parent.parent / "golden"
PARENT = tuned(ROOT)


def made() -> etree._Element:
    return parse(child_xml(PARENT, CHILD))


def with_device(device: str) -> str:
    return domain_xml(ROOT).replace("</devices>", device + "</devices>")


def test_a_child_of_a_tuned_parent_is_the_golden_one() -> None:
    path, got = GOLDEN / "tuned-child.xml", child_xml(PARENT, CHILD)
    if os.environ.get("SEVFORK_REGENERATE"):
        path.write_text(got)
    assert got == path.read_text()


def test_a_child_of_an_untouched_parent_is_as_if_made_anew() -> None:
    assert spec_from_xml(child_xml(domain_xml(ROOT), CHILD)) == CHILD


@pytest.mark.parametrize(
    "path",
    [
        *("title", "description", "iothreads", "cputune", "numatune", "memoryBacking"),
        *("memory", "vcpu", "cpu", "os", "features", "clock"),
        "metadata/{https://acme.example/tickets}ticket",
        "devices/watchdog",
        "devices/rng/backend[@model='builtin']",
        "devices/tpm",
        "{http://libvirt.org/schemas/domain/qemu/1.0}commandline",
    ],
)
def test_what_an_admin_has_set_is_in_the_child_as_it_was(path: str) -> None:
    theirs, ours = made().find(path), parse(PARENT).find(path)
    assert theirs is not None
    assert ours is not None
    for each in (theirs, ours):
        each.tail = None
    assert to_text(parse(to_text(theirs))) == to_text(parse(to_text(ours)))


def test_nothing_of_what_one_vm_has_alone_is_in_its_child() -> None:
    text = to_text(made())
    for own in (
        *(ROOT.uuid, "<name>web</name>", ROOT.mac, ROOT.console_log, 'id="7"'),
        *("52:54:00:00:00:02", "52:54:00:00:00:03", "vnet7", "portid", "virbr0"),
        *("5907", "4555", "7-web", "alias", "backingStore", "64055", "192.168.122.7"),
        *("sf-0123456789abcdef", "a1b2c3d4-0000-4000-8000-000000000001", 'address="3"'),
    ):
        assert own not in text.replace(f'parent="{ROOT.uuid}"', ""), own
        if own not in (ROOT.uuid,):
            assert own in to_text(parse(PARENT)), f"{own} is not even in the parent"


def test_every_cable_of_a_child_is_unplugged_and_only_the_parents_are_plugged_in() -> None:
    child = child_xml(PARENT, CHILD)
    interfaces = parse(child).findall("devices/interface")
    assert len(interfaces) == 3
    assert all(each.find("link[@state='down']") is not None for each in interfaces)
    macs = [each.find("mac").get("address") for each in interfaces]  # type: ignore[union-attr]
    assert len(set(macs)) == 3
    assert links_to_plug(PARENT, child) == (macs[0], macs[2])
    assert macs[0] == CHILD.mac


def test_an_alias_that_an_admin_gave_stays() -> None:
    parent = PARENT.replace('<alias name="net2"/>', '<alias name="ua-uplink"/>')
    aliases = parse(child_xml(parent, CHILD)).findall("devices/interface/alias")
    assert [each.get("name") for each in aliases] == ["ua-uplink"]


def test_a_label_that_an_admin_fixed_stays() -> None:
    parent = PARENT.replace('type="dynamic" model="dac"', 'type="static" model="dac"')
    assert parse(child_xml(parent, CHILD)).findtext("seclabel/label") == "+64055:+64055"


def test_a_child_boots_what_its_spec_says() -> None:
    boot = replace(CHILD.boot, cmdline="another")
    child = parse(child_xml(PARENT, replace(CHILD, boot=boot, memory_mib=512)))
    assert child.findtext("os/cmdline") == "another"
    assert spec_from_xml(to_text(child)).memory_mib == 512


@pytest.mark.parametrize(("kind", "field"), [("root-snp", "hostData"), ("root-tdx", "mrConfigId")])
def test_only_the_configuration_hash_differs_in_a_childs_launch(kind: str, field: str) -> None:
    parent = domain_xml(GUESTS[kind]).replace(
        "</launchSecurity>", "<idBlock>a2VwdA==</idBlock></launchSecurity>"
    )
    hardware = GUESTS[kind].hardware
    assert hardware is not None
    other = hardware.with_config_hash(b"\x55" * (32 if field == "hostData" else 48))
    child = child_xml(parent, replace(CHILD, hardware=other))
    before, after = parse(parent).find("launchSecurity"), parse(child).find("launchSecurity")
    assert before is not None
    assert after is not None
    changed = [a.tag for a, b in zip(before, after, strict=True) if a.text != b.text and a.text]
    assert changed == [field]
    assert after.findtext("idBlock") == "a2VwdA=="


def test_a_shown_domain_has_no_password() -> None:
    child = child_xml(edited(ROOT), CHILD)
    assert "not-told" in child
    assert "not-told" not in without_passwords(child)


def test_every_device_has_one_plan_and_a_reason() -> None:
    planned = planned_devices(PARENT)
    assert len(planned) == len(parse(PARENT).findall("devices/*"))
    assert all(each.reason for each in planned)
    plans = {str(each): each.plan for each in planned}
    assert plans["disk 'vda'"] is Plan.SHARE
    assert plans["disk 'sda'"] is Plan.SHARE
    assert plans["disk 'vdb'"] is Plan.LEAVE_OUT
    assert plans["serial 'tcp'"] is Plan.LEAVE_OUT
    assert plans["watchdog 'i6300esb'"] is Plan.CLONE
    require_forkable(PARENT)


REFUSED = {
    "hostdev '0000:3b:00.0'": "<hostdev mode='subsystem' type='pci'><source><address "
    "domain='0x0000' bus='0x3b' slot='0x00' function='0x0'/></source></hostdev>",
    "disk 'vdc'": "<disk type='block'><source dev='/dev/sdx'/><target dev='vdc'/></disk>",
    "disk 'vdd'": "<disk type='file'><source file='/x'/><target dev='vdd'/><shareable/></disk>",
    "disk 'vde'": "<disk type='vhostuser'><source type='unix' path='/s'/><target dev='vde'/>"
    "<readonly/></disk>",
    "disk 'vdf'": "<disk type='file'><source file='/x'/><target dev='vdf'/><transient/></disk>",
    "disk 'vdg'": "<disk type='block' device='lun'><source dev='/dev/sdx'/><target dev='vdg'/>"
    "<readonly/></disk>",
    "interface '52:54:00:00:00:09'": "<interface type='vhostuser'>"
    "<mac address='52:54:00:00:00:09'/></interface>",
    "interface '52:54:00:00:00:0a'": "<interface type='hostdev'>"
    "<mac address='52:54:00:00:00:0a'/></interface>",
    "interface '52:54:00:00:00:0b'": "<interface type='ethernet'>"
    "<mac address='52:54:00:00:00:0b'/><target dev='tap9' managed='no'/></interface>",
    "shmem 'pool'": "<shmem name='pool'><size unit='M'>4</size></shmem>",
    "filesystem 'data'": "<filesystem type='mount'><source dir='/d'/><target dir='data'/>"
    "</filesystem>",
    "filesystem 'fast'": "<filesystem type='mount'><driver type='virtiofs'/><source dir='/d'/>"
    "<target dir='fast'/><readonly/></filesystem>",
    "tpm 'tpm-tis'": "<tpm model='tpm-tis'><backend type='passthrough'/></tpm>",
    "memory 'nvdimm'": "<memory model='nvdimm'><source><path>/x</path></source></memory>",
    "serial 'dev'": "<serial type='dev'><source path='/dev/ttyS0'/></serial>",
    "rng 'virtio'": "<rng model='virtio'><backend model='egd' type='udp'/></rng>",
    "input 'evdev'": "<input type='evdev'><source dev='/dev/input/event0'/></input>",
    "lease": "<lease><key>k</key></lease>",
    "teleporter": "<teleporter/>",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_device_that_cannot_be_forked_truthfully_is_refused_by_name(name: str) -> None:
    with pytest.raises(WrongState) as caught:
        require_forkable(with_device(REFUSED[name]))
    assert name in caught.value.message


def test_all_that_is_refused_is_told_at_once() -> None:
    with pytest.raises(WrongState) as caught:
        require_forkable(with_device("".join(REFUSED.values())))
    assert all(name in caught.value.message for name in REFUSED)


@pytest.mark.parametrize("argument", ["vfio-pci,host=3b:00.0", "ivshmem-plain,memdev=m"])
def test_qemus_own_options_bring_no_refused_device_in(argument: str) -> None:
    parent = PARENT.replace("virtio-rng-pci.max-bytes=4096", argument)
    with pytest.raises(WrongState, match=r"qemu:arg"):
        require_forkable(parent)


def test_firmware_that_is_written_to_is_refused() -> None:
    parent = PARENT.replace("<kernel>", "<nvram>/var/web_VARS.fd</nvram><kernel>")
    with pytest.raises(WrongState, match=r"nvram '/var/web_VARS\.fd'"):
        require_forkable(parent)
