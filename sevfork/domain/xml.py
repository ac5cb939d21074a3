"""Domain XML, made and read: pure functions from a GuestSpec to what libvirt is given.

What matters to confidentiality is the launch, which the hardware measures; the XML is the host's,
and a host that writes another one gets a guest whose evidence says so. Sources:
https://libvirt.org/formatdomain.html, https://libvirt.org/kbase/launch_security_sev.html.
"""

from __future__ import annotations

import os
import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from lxml import etree

from sevfork.domain import metadata as meta
from sevfork.domain.elements import E, parse, to_text
from sevfork.domain.launch_security import HardwareLaunch
from sevfork.domain.metadata import Metadata
from sevfork.errors import WrongState

CHANNEL_NAME = "org.sevfork.agent.0"
ROOT_SERIAL = "sevfork-root"
ROOT_TARGET = "vda"
# Devices are plugged into a running guest one at a time or a few at once: sealed volumes.
SPARE_PORTS = 4
# virtio-blk's limit for a serial number.
SERIAL_LIMIT = 20


class Accelerator(Enum):
    """What executes the guest; the value is libvirt's domain type."""

    KVM = "kvm"
    TCG = "qemu"

    @property
    def label(self) -> str:
        return "KVM" if self is Accelerator.KVM else "software emulation (TCG), no KVM"

    @property
    def default_vcpus(self) -> int:
        """TCG runs vCPUs in parallel and loses races that processors do not: when one patches the
        kernel's code (CRIU's breakpoints do, through perf), another may find an int3 that nobody
        knows any more, and panics. Measured with QEMU 7.2: one start in ten, under load."""
        return 1 if self is Accelerator.TCG else 2

    @property
    def disabled_cpu_features(self) -> tuple[str, ...]:
        # QEMU 7.2's TCG: kernel 6.12 panics in the slab allocator with cx16, and CRIU's CPU check
        # is strict about erms and fsrm. Measured; QEMU runs such guests on KVM as they are.
        return ("cx16", "erms", "fsrm") if self is Accelerator.TCG else ()


@dataclass(frozen=True)
class Boot:
    """Paths on the libvirt host of what is booted, and the kernel's command line."""

    kernel: str
    initrd: str
    root: str
    cmdline: str


@dataclass(frozen=True)
class GuestSpec:
    """One VM, in full: two equal specs give the same XML."""

    name: str
    uuid: str
    memory_mib: int
    vcpus: int
    accelerator: Accelerator
    boot: Boot
    mac: str
    console_log: str
    metadata: Metadata
    link_up: bool = True
    hardware: HardwareLaunch | None = None


def random_mac(entropy: bytes | None = None) -> str:
    """A MAC address that is unicast and locally administered (0x52, as QEMU's own are)."""
    return bytes([0x52, *(entropy or os.urandom(5))]).hex(":")


def domain_xml(spec: GuestSpec) -> str:
    """The domain's XML, indented as virsh shows it."""
    domain = E.domain(
        E.name(spec.name),
        E.uuid(spec.uuid),
        E.metadata(spec.metadata.to_element()),
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
        *([spec.hardware.launch.element()] if spec.hardware else []),
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


def disk(path: str, serial: str, target: str, *, readonly: bool) -> etree._Element:
    """A raw virtio-blk disk. The guest finds it by its serial, never by its name."""
    if len(serial) > SERIAL_LIMIT:
        raise ValueError(f"a disk's serial has at most {SERIAL_LIMIT} characters")
    element = E.disk(
        # By default QEMU stops the whole guest when its host's disk is full or broken: a fork would
        # stop its parent. The guest hears of the error instead and goes on.
        E.driver(name="qemu", type="raw", error_policy="report", rerror_policy="report"),
        E.source(file=path),
        E.target(dev=target, bus="virtio"),
        type="file",
        device="disk",
    )
    if readonly:
        element.append(E.readonly())
    element.append(E.serial(serial))
    return element


def disk_xml(path: str, serial: str, target: str, *, readonly: bool) -> str:
    """The same as text, to attach to a running domain or detach from it."""
    return to_text(disk(path, serial, target, readonly=readonly))


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
    metadata = meta.from_domain_xml(text)
    if metadata is None:
        raise WrongState(f"'{_text(domain, 'name')}' was not made by sevfork")
    return GuestSpec(
        name=_text(domain, "name"),
        uuid=_text(domain, "uuid"),
        memory_mib=_memory_mib(domain),
        vcpus=int(_text(domain, "vcpu")),
        accelerator=Accelerator(domain.get("type", "")),
        boot=_read_boot(domain),
        mac=_attribute(domain, "devices/interface/mac", "address"),
        console_log=_attribute(domain, "devices/serial/source", "path"),
        metadata=metadata,
        link_up=domain.find("devices/interface/link[@state='down']") is None,
        hardware=HardwareLaunch.read(domain),
    )


def link_xml(domain_text: str, *, link_up: bool) -> str:
    """The domain's interface with its link set, for a live update.

    libvirt accepts an update only when everything else (address, alias) stands as it was.
    """
    domain = parse(domain_text)
    found = domain.find("devices/interface")
    if found is None:
        raise WrongState("the VM has no network interface")
    for link in found.findall("link"):
        found.remove(link)
    found.append(E.link(state="up" if link_up else "down"))
    return to_text(found)


def has_target(domain_text: str, target: str) -> bool:
    """Whether a disk of that name is (still) plugged in."""
    domain = parse(domain_text)
    return any(each.get("dev") == target for each in domain.findall("devices/disk/target"))


@dataclass(frozen=True)
class Disk:
    """A disk as it is plugged in: its file on the libvirt host, its name, its element."""

    path: str
    target: str
    xml: str


def disks(domain_text: str) -> tuple[Disk, ...]:
    """The disks that are files, as the domain has them now."""
    found = []
    for each in parse(domain_text).findall("devices/disk"):
        source, target = each.find("source"), each.find("target")
        if source is not None and target is not None and source.get("file"):
            found.append(Disk(source.get("file", ""), target.get("dev", ""), to_text(each)))
    return tuple(found)


def free_target(domain_text: str) -> str:
    """A disk name that is free: vdb, or the next one where something stuck was left."""
    taken = {disk.target for disk in disks(domain_text)}
    return next(f"vd{letter}" for letter in string.ascii_lowercase if f"vd{letter}" not in taken)


def volume_paths(domain_text: str) -> frozenset[str]:
    """Every file on the libvirt host that the domain uses: disks, kernel, initrd, console log."""
    domain = parse(domain_text)
    found = [each.get("file") for each in domain.findall("devices/disk/source")]
    found += [each.get("path") for each in domain.findall("devices/serial/source")]
    found += [domain.findtext("os/kernel"), domain.findtext("os/initrd")]
    return frozenset(each for each in found if each)


def child_spec(
    parent: GuestSpec, *, name: str, uuid: str, mac: str, console_log: str, metadata: Metadata
) -> GuestSpec:
    """The child's domain: launched like its parent (digests depend on vCPUs, CPU and memory), with
    its own identity and its link down until its after-fork hooks have passed."""
    return replace(
        parent,
        name=name,
        uuid=uuid,
        mac=mac,
        console_log=console_log,
        metadata=metadata,
        link_up=False,
    )


def _read_boot(domain: etree._Element) -> Boot:
    root = next(
        (
            disk.find("source")
            for disk in domain.findall("devices/disk")
            if disk.findtext("serial") == ROOT_SERIAL
        ),
        None,
    )
    if root is None or not root.get("file"):
        raise WrongState("the VM has no root disk of sevfork's")
    return Boot(
        _text(domain, "os/kernel"),
        _text(domain, "os/initrd"),
        root.get("file", ""),
        _text(domain, "os/cmdline"),
    )


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


def _memory_mib(domain: etree._Element) -> int:
    found = domain.find("memory")
    unit = "KiB" if found is None else found.get("unit", "KiB")
    if unit not in _MEMORY_UNITS:
        raise WrongState(f"the VM's memory is given in '{unit}'")
    return int(_text(domain, "memory")) * _MEMORY_UNITS[unit] // 2**20


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
