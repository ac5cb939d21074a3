"""Domain XML, made and read: pure functions from a GuestSpec to what libvirt is given.

What matters to confidentiality is the launch, which the hardware measures; the XML is the host's,
and a host that writes another one gets a guest whose evidence says so. Sources:
https://libvirt.org/formatdomain.html, https://libvirt.org/kbase/launch_security_sev.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from lxml import etree

from sevfork.domain import launch_security, metadata_xml
from sevfork.domain.disks import disk
from sevfork.domain.elements import E, parse, to_text
from sevfork.domain.metadata import Metadata
from sevfork.domain.spec import Accelerator, Boot, GuestSpec
from sevfork.errors import WrongState

CHANNEL_NAME = "org.sevfork.agent.0"
ROOT_SERIAL = "sevfork-root"
ROOT_TARGET = "vda"
# Devices are plugged into a running guest one at a time or a few at once: sealed volumes.
SPARE_PORTS = 4


def domain_xml(spec: GuestSpec) -> str:
    """The domain's XML, indented as virsh shows it."""
    domain = E.domain(
        E.name(spec.name),
        E.uuid(spec.uuid),
        E.metadata(metadata_xml.element(spec.metadata)),
        E.memory(str(spec.memory_mib), unit="MiB"),
        E.vcpu(str(spec.vcpus), placement="static"),
        _os(spec),
        E.features(E.acpi(), E.apic(), *(spec.hardware.features() if spec.hardware else [])),
        _cpu(spec),
        E.clock(offset="utc"),
        # A guest that ends, however it ends, is over: its agent's keys went with its memory.
        E.on_poweroff("destroy"),
        E.on_reboot("destroy"),
        E.on_crash("destroy"),
        _devices(spec),
        *([spec.hardware.launch_security()] if spec.hardware else []),
        type=spec.accelerator.value,
    )
    return to_text(domain, indent=True)


def _os(spec: GuestSpec) -> etree._Element:
    return E.os(
        E.type("hvm", arch="x86_64", machine="q35"),
        *([spec.hardware.loader()] if spec.hardware else []),
        E.kernel(spec.boot.kernel),
        E.initrd(spec.boot.initrd),
        E.cmdline(spec.boot.cmdline),
    )


def _cpu(spec: GuestSpec) -> etree._Element:
    if spec.hardware:
        return spec.hardware.cpu()
    features = [
        E.feature(policy="disable", name=name) for name in spec.accelerator.disabled_cpu_features
    ]
    if spec.metadata.cpu_model == "maximum":
        return E.cpu(*features, mode="maximum", check="none", migratable="off")
    model = E.model(spec.metadata.cpu_model, fallback="forbid")
    return E.cpu(model, *features, mode="custom", match="exact", check="none")


def _devices(spec: GuestSpec) -> etree._Element:
    return E.devices(
        *_pci_ports(),
        E.controller(type="usb", model="none"),
        disk(spec.boot.root, ROOT_SERIAL, ROOT_TARGET, readonly=True),
        _boot_interface(spec),
        E.serial(
            E.source(path=spec.console_log, append="off"),
            E.target(type="isa-serial", port="0"),
            type="file",
        ),
        E.channel(E.target(type="virtio", name=CHANNEL_NAME), type="unix"),
        E.memballoon(model="none"),
        E.rng(E.backend("/dev/urandom", model="random"), model="virtio"),
    )


def _boot_interface(spec: GuestSpec) -> etree._Element:
    network = interface(spec.mac, link_up=spec.link_up)
    if spec.hardware:
        # An option ROM is the host's code: nothing of it belongs into a confidential guest.
        network.append(E.rom(enabled="no"))
    return network


def _pci_ports() -> list[etree._Element]:
    # One each for the root disk, the network, the virtio-serial controller and the generator; a
    # guest that runs can be given devices only on ports that it was started with.
    count = 4 + SPARE_PORTS
    root = E.controller(type="pci", index="0", model="pcie-root")
    numbers = range(1, count + 1)
    return [root] + [
        E.controller(type="pci", index=str(number), model="pcie-root-port") for number in numbers
    ]


def interface(mac: str, *, link_up: bool) -> etree._Element:
    """QEMU's user-mode network: it needs no rights, and nothing reaches in by itself."""
    return E.interface(
        E.mac(address=mac),
        E.model(type="virtio"),
        E.link(state="up" if link_up else "down"),
        type="user",
    )


def spec_from_xml(text: str) -> GuestSpec:
    """Read back what ``domain_xml`` wrote, after libvirt has completed it.

    Raises WrongState where the domain is not one of sevfork's, or was edited beyond recognition.
    """
    domain = parse(text)
    metadata = metadata_of(domain)
    return GuestSpec(
        name=_text(domain, "name"),
        uuid=_text(domain, "uuid"),
        memory_mib=memory_mib(domain),
        vcpus=_number(domain, "vcpu"),
        accelerator=_accelerator(domain),
        boot=_read_boot(domain),
        mac=_attribute(domain, "devices/interface/mac", "address"),
        console_log=_console_log(domain, metadata),
        metadata=metadata,
        link_up=domain.find("devices/interface/link[@state='down']") is None,
        hardware=launch_security.read(domain),
    )


def metadata_of(domain: etree._Element) -> Metadata:
    """What sevfork knows of a domain; raises WrongState where it did not make it."""
    metadata = metadata_xml.in_domain(domain)
    if metadata is None:
        raise WrongState(f"'{_text(domain, 'name')}' was not made by sevfork")
    return metadata


def write_boot(domain: etree._Element, spec: GuestSpec) -> None:
    """Set in a domain what the spec boots, with how much memory and how many processors."""
    if memory_mib(domain) != spec.memory_mib:
        for current in domain.findall("currentMemory"):
            domain.remove(current)
        _set_text(domain, "memory", str(spec.memory_mib)).set("unit", "MiB")
    _set_text(domain, "vcpu", str(spec.vcpus))
    for name in ("kernel", "initrd", "cmdline"):
        _set_text(domain, f"os/{name}", getattr(spec.boot, name))
    root_source(domain).set("file", spec.boot.root)


def _set_text(domain: etree._Element, path: str, text: str) -> etree._Element:
    found = domain.find(path)
    if found is None:
        raise WrongState(f"the VM's domain XML has no '{path}'")
    found.text = text
    return found


def require_agent_ready(text: str) -> None:
    """Raises WrongState where an admin has taken out what sevfork's agent in the guest needs."""
    domain = parse(text)
    channels = domain.findall("devices/channel/target")
    if CHANNEL_NAME not in {each.get("name") for each in channels}:
        raise WrongState(f"the VM's domain XML has no channel '{CHANNEL_NAME}'")
    for event in ("on_poweroff", "on_reboot", "on_crash"):
        if domain.findtext(event) != "destroy":
            # A guest that starts again by itself would be one that nobody has told what it is.
            raise WrongState(f"the VM's domain XML has another '{event}' than 'destroy'")


def link_xml(domain_text: str, mac: str, *, link_up: bool) -> str:
    """The domain's interface with this MAC address and its link set, for a live update.

    libvirt accepts an update only when everything else (address, alias) stands as it was.
    """
    domain = parse(domain_text)
    addresses = domain.findall("devices/interface/mac")
    found = next((each.getparent() for each in addresses if each.get("address") == mac), None)
    if found is None:
        raise WrongState(f"the VM has no network interface '{mac}'")
    for link in found.findall("link"):
        found.remove(link)
    found.append(E.link(state="up" if link_up else "down"))
    return to_text(found)


def _read_boot(domain: etree._Element) -> Boot:
    return Boot(
        _text(domain, "os/kernel"),
        _text(domain, "os/initrd"),
        root_source(domain).get("file", ""),
        _text(domain, "os/cmdline"),
    )


def root_source(domain: etree._Element) -> etree._Element:
    """The file behind the guest's root disk."""
    for each in domain.findall("devices/disk"):
        source = each.find("source")
        if each.findtext("serial") == ROOT_SERIAL and source is not None and source.get("file"):
            return source
    raise WrongState("the VM has no root disk of sevfork's")


def _console_log(domain: etree._Element, metadata: Metadata) -> str:
    """The path of sevfork's log; an admin may have given the VM further serial ports."""
    sources = domain.findall("devices/serial[@type='file']/source")
    paths = [path for each in sources if (path := each.get("path"))]
    if not paths:
        raise WrongState("the VM's domain XML has no serial port that writes a log")
    return next((path for path in paths if PurePosixPath(path).name in metadata.volumes), paths[0])


_MEMORY_UNITS: Mapping[str, int] = {
    "b": 1,
    "bytes": 1,
    "k": 2**10,
    "KiB": 2**10,
    "M": 2**20,
    "MiB": 2**20,
    "G": 2**30,
    "GiB": 2**30,
}


def memory_mib(domain: etree._Element) -> int:
    """Raises WrongState for what is no size."""
    found = domain.find("memory")
    unit = "KiB" if found is None else found.get("unit", "KiB")
    if unit not in _MEMORY_UNITS:
        raise WrongState(f"the VM's memory is given in '{unit}'")
    return _number(domain, "memory") * _MEMORY_UNITS[unit] // 2**20


def _accelerator(domain: etree._Element) -> Accelerator:
    try:
        return Accelerator(domain.get("type"))
    except ValueError as exc:
        raise WrongState(f"the VM's domain type is '{domain.get('type')}'") from exc


def _number(domain: etree._Element, path: str) -> int:
    text = _text(domain, path)
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise WrongState(f"the VM's '{path}' is no number: '{text}'")
    return int(text)


def _text(element: etree._Element, path: str) -> str:
    found = element.findtext(path)
    if not found:
        raise WrongState(f"the VM's domain XML has no '{path}'")
    return found


def _attribute(element: etree._Element, path: str, name: str) -> str:
    found = element.find(path)
    if found is None or not found.get(name):
        raise WrongState(f"the VM's domain XML has no '{path}'")
    return str(found.get(name))
