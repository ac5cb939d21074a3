"""Domain XML: golden files (SEVFORK_REGENERATE=1 writes them anew), and reading it back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sevfork.domain.disks import disk_xml
from sevfork.domain.elements import parse
from sevfork.domain.xml import SPARE_PORTS, domain_xml, link_xml, spec_from_xml
from sevfork.errors import WrongState
from tests.support.guest_specs import CHILD, GUESTS, ROOT

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", GUESTS)
def test_domain_xml_is_the_golden_one(name: str) -> None:
    path, got = GOLDEN / f"{name}.xml", domain_xml(GUESTS[name])
    if os.environ.get("SEVFORK_REGENERATE"):
        path.write_text(got)
    assert got == path.read_text()


@pytest.mark.parametrize("name", GUESTS)
def test_a_spec_is_read_back_as_it_was_written(name: str) -> None:
    assert spec_from_xml(domain_xml(GUESTS[name])) == GUESTS[name]


def test_a_child_starts_with_its_link_down_and_its_parent_with_the_link_up() -> None:
    assert parse(domain_xml(CHILD)).find("devices/interface/link[@state='down']") is not None
    assert parse(domain_xml(ROOT)).find("devices/interface/link[@state='up']") is not None


@pytest.mark.parametrize("event", ["on_poweroff", "on_reboot", "on_crash"])
def test_a_guest_that_ends_is_over(event: str) -> None:
    assert parse(domain_xml(ROOT)).findtext(event) == "destroy"


def test_cpu_features_are_turned_off_only_in_emulation() -> None:
    emulated = parse(domain_xml(ROOT)).findall("cpu/feature[@policy='disable']")
    assert [each.get("name") for each in emulated] == ["cx16", "erms", "fsrm"]
    assert parse(domain_xml(GUESTS["root-kvm"])).find("cpu/feature") is None


def test_the_root_disk_is_read_only_and_memory_is_not_shared() -> None:
    domain = parse(domain_xml(ROOT))
    assert domain.find("devices/disk/readonly") is not None
    assert domain.find("memoryBacking") is None


@pytest.mark.parametrize("name", GUESTS)
def test_no_disk_of_a_guest_ever_stops_the_guest(name: str) -> None:
    sealed = parse(disk_xml("/pool/sealed", "sf-0123456789abcdef", "vdb", readonly=False))
    domain = parse(domain_xml(GUESTS[name]))
    for driver in (sealed.find("driver"), domain.find("devices/disk/driver")):
        assert driver is not None
        assert driver.get("error_policy") == driver.get("rerror_policy") == "report"


def test_there_are_spare_ports_for_devices_that_come_later() -> None:
    domain = parse(domain_xml(ROOT))
    ports = domain.findall("devices/controller[@model='pcie-root-port']")
    assert len(ports) == 4 + SPARE_PORTS


def test_a_command_line_with_special_characters_survives() -> None:
    spec = replace(ROOT, boot=replace(ROOT.boot, cmdline="a=<b> & \"c\" 'd'"))
    assert spec_from_xml(domain_xml(spec)).boot.cmdline == spec.boot.cmdline


def test_memory_in_the_unit_that_libvirt_writes_is_understood() -> None:
    text = domain_xml(ROOT).replace(
        '<memory unit="MiB">1024</memory>', "<memory unit='KiB'>1048576</memory>"
    )
    assert spec_from_xml(text).memory_mib == 1024


def test_a_domain_of_somebody_else_is_refused() -> None:
    with pytest.raises(WrongState, match="was not made by sevfork"):
        spec_from_xml("<domain type='kvm'><name>theirs</name></domain>")


@pytest.mark.parametrize(
    "missing", ["<uuid>", "<kernel>", "<initrd>", "<cmdline>", "<serial>", "<mac ", "<vcpu "]
)
def test_a_domain_that_lacks_something_is_refused_and_not_guessed(missing: str) -> None:
    text = (
        domain_xml(ROOT)
        .replace(missing, missing.replace("<", "<x"))
        .replace(missing.replace("<", "</"), missing.replace("<", "</x"))
    )
    with pytest.raises(WrongState):
        spec_from_xml(text)


def test_the_link_is_changed_and_nothing_else() -> None:
    live = domain_xml(CHILD).replace("<model type=", "<alias name='net0'/><model type=", 1)
    interface = parse(link_xml(live, CHILD.mac, link_up=True))
    assert [each.get("state") for each in interface.findall("link")] == ["up"]
    assert interface.find("mac").get("address") == CHILD.mac  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('<domain type="qemu">', '<domain type="xen">'),
        ('<domain type="qemu">', "<domain>"),
        ('<vcpu placement="static">2<', "<vcpu>two<"),
        ('<vcpu placement="static">2<', "<vcpu>-2<"),
        ('<vcpu placement="static">2<', f"<vcpu>{'9' * 5000}<"),
        ('<memory unit="MiB">1024<', '<memory unit="MiB">much<'),
        ('<memory unit="MiB">', '<memory unit="barrels">'),
    ],
)
def test_a_domain_that_was_edited_is_refused_in_our_words(old: str, new: str) -> None:
    text = domain_xml(ROOT)
    assert old in text
    with pytest.raises(WrongState):
        spec_from_xml(text.replace(old, new, 1))
