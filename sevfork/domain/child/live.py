"""What libvirt adds to the XML of a guest that runs, taken out again: pure.

Addresses on the guest's own buses stay: a child's devices are where its parent's are.
"""

from __future__ import annotations

from collections.abc import Iterable

from lxml import etree

from sevfork.domain.child.characters import libvirt_chose
from sevfork.domain.elements import unset


def strip(domain: etree._Element) -> None:
    """In place: ids, aliases, labels, ends of connections and what else one process has."""
    unset([domain], "id")
    # An alias that an admin gave begins with "ua-", and QEMU's overrides speak of it.
    _remove(
        each
        for each in domain.findall("devices/*/alias")
        if not each.get("name", "").startswith("ua-")
    )
    for disk in domain.findall("devices/disk"):
        _remove(disk.findall("backingStore") + disk.findall("mirror"))
        unset(disk.findall("source"), "index")
    for interface in domain.findall("devices/interface"):
        _strip_interface(interface)
    for name in ("serial", "parallel", "channel"):
        for device in domain.findall(f"devices/{name}"):
            _strip_character(device)
    for graphics in domain.findall("devices/graphics"):
        _strip_graphics(graphics)
    _strip_labels(domain)


def _strip_interface(interface: etree._Element) -> None:
    # The name of the device on the host: libvirt chooses one.
    unset(interface.findall("target"), "dev")
    _remove(each for each in interface.findall("target") if not each.attrib)
    for source in interface.findall("source"):
        unset([source], "portid")
        if source.get("network"):
            unset([source], "bridge", "dev")
    # Of passt: ports are published anew, and a log has one writer.
    _remove(interface.findall("portForward"))
    unset(interface.findall("backend"), "logFile")


def _strip_character(device: etree._Element) -> None:
    unset(device.findall("target"), "state")
    _remove(device.findall("log"))
    if device.get("type") == "pty" or (device.get("type") == "unix" and libvirt_chose(device)):
        _remove(device.findall("source"))


def _strip_graphics(graphics: etree._Element) -> None:
    if graphics.get("type") not in ("vnc", "spice"):
        return
    unset([graphics], "port", "tlsPort", "websocket", "socket")
    graphics.set("autoport", "yes")
    unset(graphics.findall("listen[@type='socket']"), "socket")


def _strip_labels(domain: etree._Element) -> None:
    """A label that libvirt made up is one process's; one that an admin fixed is to be kept."""
    for label in domain.findall("seclabel"):
        if label.get("type") == "dynamic":
            _remove(label.findall("label") + label.findall("imagelabel"))


def _remove(elements: Iterable[etree._Element]) -> None:
    for each in list(elements):
        parent = each.getparent()
        if parent is not None:
            parent.remove(each)
