"""Domain XML: golden files (SEVFORK_REGENERATE=1 writes them anew), and reading it back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sevfork.domain import xml as d
from sevfork.domain.elements import parse
from sevfork.domain.launch_security import HardwareLaunch, SnpLaunch, TdxLaunch
from sevfork.domain.metadata import Maker, Metadata, Phase, ProcessorState, PublishedPort
from sevfork.errors import WrongState
from sevfork.handshake.launch import Role
from sevfork.technology import Technology

GOLDEN = Path(__file__).parent / "golden"

METADATA = Metadata(
    technology=Technology.SIMULATED,
    role=Role.ROOT,
    phase=Phase.READY,
    image="redis",
    cpu_model="maximum",
    workload_ports=(6379,),
    ports=(PublishedPort(16379, 6379),),
    volumes=("web-11111111.log",),
    processor=ProcessorState(b"\x01" * 48, b"\x02" * 32, b"\x03" * 32),
)
ROOT = d.GuestSpec(
    name="web",
    uuid="11111111-2222-4333-8444-555555555555",
    memory_mib=1024,
    vcpus=2,
    accelerator=d.Accelerator.TCG,
    boot=d.Boot("/pool/kernel", "/pool/initrd", "/pool/root", "console=ttyS0 sevfork.root=1,a,b"),
    mac="52:01:02:03:04:05",
    console_log="/pool/web-11111111.log",
    metadata=METADATA,
)
CHILD = d.child_spec(
    ROOT,
    name="web-fork",
    uuid="66666666-2222-4333-8444-555555555555",
    mac="52:0a:0b:0c:0d:0e",
    console_log="/pool/web-fork-66666666.log",
    metadata=replace(
        METADATA,
        role=Role.CHILD,
        phase=Phase.FORMING,
        generation=1,
        parent=ROOT.uuid,
        parent_name="web",
        fork_id="ab" * 16,
        index=0,
        ports=(),
        volumes=("web-fork-66666666.log",),
        maker=Maker("host pid:[1]", "boot", 4711, 99),
    ),
)
GUESTS = {
    "root-tcg": ROOT,
    "child-tcg": CHILD,
    "root-kvm": replace(ROOT, accelerator=d.Accelerator.KVM),
    "root-named-cpu": replace(
        ROOT,
        accelerator=d.Accelerator.KVM,
        metadata=replace(METADATA, cpu_model="EPYC-v4"),
    ),
    "root-snp": replace(
        ROOT,
        accelerator=d.Accelerator.KVM,
        metadata=replace(METADATA, technology=Technology.SEV_SNP, processor=None),
        hardware=HardwareLaunch(SnpLaunch(51, 1, b"\x07" * 32), "/usr/share/ovmf/OVMF.amdsev.fd"),
    ),
    "root-tdx": replace(
        ROOT,
        accelerator=d.Accelerator.KVM,
        metadata=replace(METADATA, technology=Technology.TDX, processor=None),
        hardware=HardwareLaunch(TdxLaunch(b"\x09" * 48), "/usr/share/ovmf/OVMF.inteltdx.ms.fd"),
    ),
}


@pytest.mark.parametrize("name", GUESTS)
def test_domain_xml_is_the_golden_one(name: str) -> None:
    path, got = GOLDEN / f"{name}.xml", d.domain_xml(GUESTS[name])
    if os.environ.get("SEVFORK_REGENERATE"):
        path.write_text(got)
    assert got == path.read_text()


@pytest.mark.parametrize("name", GUESTS)
def test_a_spec_is_read_back_as_it_was_written(name: str) -> None:
    assert d.spec_from_xml(d.domain_xml(GUESTS[name])) == GUESTS[name]


def test_a_child_is_launched_like_its_parent() -> None:
    for field in ("memory_mib", "vcpus", "accelerator", "boot"):
        assert getattr(CHILD, field) == getattr(ROOT, field)


def test_a_child_starts_with_its_link_down_and_its_parent_with_the_link_up() -> None:
    assert parse(d.domain_xml(CHILD)).find("devices/interface/link[@state='down']") is not None
    assert parse(d.domain_xml(ROOT)).find("devices/interface/link[@state='up']") is not None


@pytest.mark.parametrize("event", ["on_poweroff", "on_reboot", "on_crash"])
def test_a_guest_that_ends_is_over(event: str) -> None:
    assert parse(d.domain_xml(ROOT)).findtext(event) == "destroy"


def test_cpu_features_are_turned_off_only_in_emulation() -> None:
    emulated = parse(d.domain_xml(ROOT)).findall("cpu/feature[@policy='disable']")
    assert [each.get("name") for each in emulated] == ["cx16", "erms", "fsrm"]
    assert parse(d.domain_xml(GUESTS["root-kvm"])).find("cpu/feature") is None


def test_the_root_disk_is_read_only_and_memory_is_not_shared() -> None:
    domain = parse(d.domain_xml(ROOT))
    assert domain.find("devices/disk/readonly") is not None
    assert domain.find("memoryBacking") is None


@pytest.mark.parametrize("name", GUESTS)
def test_no_disk_of_a_guest_ever_stops_the_guest(name: str) -> None:
    sealed = parse(d.disk_xml("/pool/sealed", "sf-0123456789abcdef", "vdb", readonly=False))
    domain = parse(d.domain_xml(GUESTS[name]))
    for driver in (sealed.find("driver"), domain.find("devices/disk/driver")):
        assert driver is not None
        assert driver.get("error_policy") == driver.get("rerror_policy") == "report"


def test_there_are_spare_ports_for_devices_that_come_later() -> None:
    domain = parse(d.domain_xml(ROOT))
    ports = domain.findall("devices/controller[@model='pcie-root-port']")
    assert len(ports) == 4 + d.SPARE_PORTS


def test_a_random_mac_is_unicast_and_locally_administered() -> None:
    first, *rest = (int(octet, 16) for octet in d.random_mac().split(":"))
    assert first & 1 == 0
    assert first & 2
    assert len(rest) == 5
    assert d.random_mac() != d.random_mac()


def test_a_command_line_with_special_characters_survives() -> None:
    spec = replace(ROOT, boot=replace(ROOT.boot, cmdline="a=<b> & \"c\" 'd'"))
    assert d.spec_from_xml(d.domain_xml(spec)).boot.cmdline == spec.boot.cmdline


def test_memory_in_the_unit_that_libvirt_writes_is_understood() -> None:
    text = d.domain_xml(ROOT).replace(
        '<memory unit="MiB">1024</memory>', "<memory unit='KiB'>1048576</memory>"
    )
    assert d.spec_from_xml(text).memory_mib == 1024


def test_a_domain_of_somebody_else_is_refused() -> None:
    with pytest.raises(WrongState, match="was not made by sevfork"):
        d.spec_from_xml("<domain type='kvm'><name>theirs</name></domain>")


@pytest.mark.parametrize(
    "missing", ["<uuid>", "<kernel>", "<initrd>", "<cmdline>", "<serial>", "<mac ", "<vcpu "]
)
def test_a_domain_that_lacks_something_is_refused_and_not_guessed(missing: str) -> None:
    text = (
        d.domain_xml(ROOT)
        .replace(missing, missing.replace("<", "<x"))
        .replace(missing.replace("<", "</"), missing.replace("<", "</x"))
    )
    with pytest.raises(WrongState):
        d.spec_from_xml(text)


def test_the_link_is_changed_and_nothing_else() -> None:
    live = d.domain_xml(CHILD).replace("<model type=", "<alias name='net0'/><model type=", 1)
    interface = parse(d.link_xml(live, link_up=True))
    assert [each.get("state") for each in interface.findall("link")] == ["up"]
    assert interface.find("mac").get("address") == CHILD.mac  # type: ignore[union-attr]


def test_every_file_that_a_domain_uses_is_found() -> None:
    sealed = d.disk_xml("/pool/sealed", "sf-0123456789abcdef", "vdb", readonly=True)
    text = d.domain_xml(ROOT).replace("<serial type=", f"{sealed}<serial type=", 1)
    assert d.volume_paths(text) == {
        "/pool/kernel",
        "/pool/initrd",
        "/pool/root",
        "/pool/sealed",
        "/pool/web-11111111.log",
    }
    assert d.has_target(text, "vdb")
    assert not d.has_target(text, "vdc")


def test_a_serial_that_virtio_would_cut_short_is_refused() -> None:
    with pytest.raises(ValueError, match="20 characters"):
        d.disk("/pool/x", "s" * 21, "vdb", readonly=True)
