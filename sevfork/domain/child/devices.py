"""One table: what becomes of each kind of device in a child, and why.

The kinds are those of https://libvirt.org/formatdomain.html#devices. A kind that is not in the
table is refused: what nobody has thought about is not forked by accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from lxml import etree

from sevfork.domain.child import characters
from sevfork.domain.child.plans import PlannedDevice, Verdict, clone, leave_out, refuse, share
from sevfork.domain.metadata import Metadata
from sevfork.wire.volume_serial import is_serial

_HOST = "a device of the host, which one VM has at a time"
_OWN = "one of its own of the same kind"
# Networks in which each guest has a port of its own.
_NETWORKS = ("user", "network", "bridge", "direct", "internal", "mcast")


def planned(device: etree._Element, parent: Metadata) -> PlannedDevice:
    """What becomes of one element of ``<devices>``."""
    kind = str(device.tag)
    found = _FIXED.get(kind)
    if found is None:
        rule = _RULES.get(kind)
        found = rule(device, parent) if rule else refuse("a kind that sevfork does not know")
    return PlannedDevice(kind, _name(device), found.plan, found.reason)


def _name(device: etree._Element) -> str:
    """What an admin finds it by: its MAC, its target's name, its address on the host, its model."""
    sought = (
        ("mac", "address"),
        ("target", "dev"),
        ("target", "name"),
        ("target", "dir"),
        ("source/address", "domain"),
    )
    for path, attribute in sought:
        element = device.find(path)
        if element is not None and (value := element.get(attribute)):
            return _host_address(element) if path == "source/address" else value
    words = (device.get("type"), device.get("model"), device.get("index"), device.get("name"))
    return " ".join(word for word in words if word)


def _host_address(address: etree._Element) -> str:
    """As lspci writes it."""
    parts = (address.get(name, "0").removeprefix("0x") for name in ("domain", "bus", "slot"))
    domain, bus, slot = parts
    return f"{domain:>04}:{bus:>02}:{slot:>02}.{address.get('function', '0').removeprefix('0x')}"


def _disk(disk: etree._Element, parent: Metadata) -> Verdict:
    serial = disk.findtext("serial") or ""
    if is_serial(serial):
        return leave_out("holds a sealed image: a fork or a snapshot has plugged it in")
    if disk.find("source") is None:
        return clone("an empty drive")
    if disk.find("transient") is not None:
        return refuse("what its guest wrote is in a file that is thrown away, and in no child")
    if disk.get("type") == "vhostuser":
        return refuse("is served by a process that serves one VM")
    if disk.get("device") == "lun":
        return refuse(_HOST)
    if disk.get("device") == "cdrom" or disk.find("readonly") is not None:
        return share("is only read")
    if disk.find("shareable") is not None:
        return refuse("several VMs write to it, and a fork cannot copy it at one instant")
    return refuse("is written to, and a fork cannot copy it at one instant")


def _interface(interface: etree._Element, parent: Metadata) -> Verdict:
    kind = interface.get("type", "")
    source = interface.find("source")
    if kind == "hostdev":
        return refuse(_HOST)
    if kind == "direct" and source is not None and source.get("mode") == "passthrough":
        return refuse(_HOST)
    target = interface.find("target")
    if kind == "ethernet" and (target is None or target.get("managed") != "no"):
        return clone("a tap device and a MAC address of its own, its cable unplugged at first")
    if kind in _NETWORKS:
        return clone("the same network, a MAC address of its own, its cable unplugged at first")
    return refuse(f"of type '{kind}', which has one end for one VM")


def _filesystem(filesystem: etree._Element, parent: Metadata) -> Verdict:
    driver, source = filesystem.find("driver"), filesystem.find("source")
    if source is not None and source.get("socket"):
        return refuse("is served by a process that serves one VM")
    if driver is not None and driver.get("type") == "virtiofs":
        return refuse("needs memory that another process can write to")
    if filesystem.find("readonly") is not None:
        return share("is only read")
    return refuse("the host's directory is written to, and a fork cannot copy it at one instant")


def _backend(device: etree._Element, parent: Metadata) -> Verdict:
    """A TPM, a generator, a crypto device: by what stands behind it."""
    backend = device.find("backend")
    word = "" if backend is None else backend.get("type") or backend.get("model") or ""
    if device.tag == "tpm":
        return (
            clone("a new one, empty: nothing of the parent's is in it")
            if word == "emulator"
            else refuse(_HOST)
        )
    if word in ("random", "builtin", "lkcf"):
        return clone(_OWN)
    return refuse("what feeds it serves one VM")


def _memory(memory: etree._Element, parent: Metadata) -> Verdict:
    model = memory.get("model", "")
    if model in ("dimm", "virtio-mem", "sgx-epc"):
        return clone("memory of its own, of the same size at the same address")
    if memory.find("readonly") is not None:
        return share("is only read")
    return refuse("a file that is written to as memory")


def _input(device: etree._Element, parent: Metadata) -> Verdict:
    return refuse(_HOST) if device.get("type") in ("passthrough", "evdev") else clone(_OWN)


def _graphics(graphics: etree._Element, parent: Metadata) -> Verdict:
    if graphics.get("type") in ("vnc", "spice", "egl-headless"):
        return clone("on a port of its own, which libvirt chooses")
    return leave_out("a window of the host's desktop, for one VM")


def _audio(audio: etree._Element, parent: Metadata) -> Verdict:
    return leave_out("writes to a file") if audio.get("type") == "file" else clone(_OWN)


def _smartcard(device: etree._Element, parent: Metadata) -> Verdict:
    return refuse(_HOST) if device.get("mode") == "host" else leave_out("a card for one VM")


class _Rule(Protocol):
    def __call__(self, device: etree._Element, parent: Metadata, /) -> Verdict: ...


_FIXED: Mapping[str, Verdict] = {
    "emulator": clone("the same QEMU"),
    "controller": clone("the same bus at the same address"),
    "sound": clone(_OWN),
    "video": clone(_OWN),
    "hub": clone(_OWN),
    "watchdog": clone("a new one, which nobody has started"),
    "memballoon": clone(_OWN),
    "panic": clone(_OWN),
    "iommu": clone(_OWN),
    "vsock": clone("with a number of its own, which libvirt chooses"),
    "console": leave_out("another name of a serial port: libvirt makes it again"),
    "redirdev": leave_out("a USB device that somebody has redirected to the parent"),
    "redirfilter": clone("a rule"),
    "hostdev": refuse(_HOST),
    "shmem": refuse("memory that several machines write to"),
    "lease": refuse("a lock that one VM holds"),
    "nvram": refuse("memory that outlives its VM, and cannot be copied at one instant"),
    "pstore": refuse("memory that outlives its VM, and cannot be copied at one instant"),
}
_RULES: Mapping[str, _Rule] = {
    "disk": _disk,
    "interface": _interface,
    "filesystem": _filesystem,
    "tpm": _backend,
    "rng": _backend,
    "crypto": _backend,
    "memory": _memory,
    "input": _input,
    "graphics": _graphics,
    "audio": _audio,
    "smartcard": _smartcard,
    "serial": characters.planned,
    "parallel": characters.planned,
    "channel": characters.planned,
}
