"""A child's domain XML: its parent's, with what has to be a child's own.

What is measured (vCPUs, CPU, memory, machine, firmware, kernel) stays as it is by construction, and
so does all that an admin has set and sevfork knows nothing of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from lxml import etree

from sevfork.domain import launch_security, metadata_xml
from sevfork.domain.child import characters, live
from sevfork.domain.child.devices import planned
from sevfork.domain.child.plans import Plan, PlannedDevice
from sevfork.domain.elements import E, child_of, parse, to_text, unset
from sevfork.domain.metadata import Metadata
from sevfork.domain.spec import GuestSpec, random_mac
from sevfork.domain.xml import metadata_of, write_boot
from sevfork.errors import WrongState

_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
# Devices that are refused, by the words that QEMU's command line has for them.
_REFUSED_ARGUMENTS = ("vfio", "vhost-user", "vhost-vdpa", "ivshmem", "-incoming")


def planned_devices(parent_text: str) -> tuple[PlannedDevice, ...]:
    """What becomes of each device of a domain; raises WrongState where sevfork did not make it."""
    domain = parse(parent_text)
    devices = tuple(plan for _, plan in _planned(domain, metadata_of(domain)))
    return devices + refused_settings(domain)


def require_forkable(parent_text: str) -> None:
    """Raises WrongState that names every device with which a VM cannot be forked truthfully."""
    refused = [each for each in planned_devices(parent_text) if each.plan is Plan.REFUSE]
    if refused:
        name = parse(parent_text).findtext("name")
        reasons = "; ".join(f"{each}: {each.reason}" for each in refused)
        raise WrongState(
            f"'{name}' cannot be forked with what it has: {reasons}",
            hint="take it out of the VM ('virsh detach-device'), or fork one without it",
        )


def child_xml(parent_text: str, child: GuestSpec) -> str:
    """The child's domain, for libvirt to define; indented as virsh shows it."""
    domain = parse(parent_text)
    parent = metadata_of(domain)
    for device, plan in list(_planned(domain, parent)):
        if plan.plan is Plan.LEAVE_OUT:
            _parent_of(device).remove(device)
        elif characters.is_log(device, parent):
            device.find("source").set("path", child.console_log)  # type: ignore[union-attr]
    live.strip(domain)
    _set_identity(domain, child)
    _set_interfaces(domain, child)
    write_boot(domain, child)
    if child.hardware:
        launch_security.write_config_hash(domain, child.hardware)
    etree.indent(domain)
    return to_text(domain, indent=True)


def without_passwords(domain_text: str) -> str:
    """A domain to be shown, without what opens its graphical console."""
    domain = parse(domain_text)
    for graphics in domain.findall("devices/graphics"):
        unset([graphics], "passwd", "passwdValidTo")
    return to_text(domain, indent=True)


def links_to_plug(parent_text: str, child_text: str) -> tuple[str, ...]:
    """MAC addresses of the child's interfaces whose cable is plugged in at the parent's."""
    parent, child = (parse(text).findall("devices/interface") for text in (parent_text, child_text))
    return tuple(
        _mac(theirs)
        for ours, theirs in zip(parent, child, strict=False)
        if ours.find("link[@state='down']") is None
    )


def _mac(interface: etree._Element) -> str:
    address = interface.find("mac")
    return "" if address is None else address.get("address", "")


def _planned(
    domain: etree._Element, parent: Metadata
) -> Iterator[tuple[etree._Element, PlannedDevice]]:
    for device in domain.iterfind("devices/*"):
        if isinstance(device.tag, str):  # not a comment
            yield device, planned(device, parent)


def refused_settings(domain: etree._Element) -> tuple[PlannedDevice, ...]:
    """What stands outside of ``<devices>``, and is refused like a device."""
    return _variables(domain) + _arguments(domain)


def _variables(domain: etree._Element) -> tuple[PlannedDevice, ...]:
    """Firmware that can be written to is no part of what is measured, and state of one VM."""
    return tuple(
        PlannedDevice("nvram", each.text or "", Plan.REFUSE, "the firmware writes to it")
        for each in domain.findall("os/nvram")
    )


def _arguments(domain: etree._Element) -> tuple[PlannedDevice, ...]:
    """QEMU's own options are copied as they are, but for those that give it refused devices."""
    values = [each.get("value", "") for each in domain.iterfind(f"{_QEMU}commandline/{_QEMU}arg")]
    return tuple(
        PlannedDevice("qemu:arg", value, Plan.REFUSE, "gives it what one VM has at a time")
        for value in values
        if any(word in value for word in _REFUSED_ARGUMENTS)
    )


def _set_identity(domain: etree._Element, child: GuestSpec) -> None:
    """Name, UUID, sevfork's metadata (an admin's stays), and where these stand a second time."""
    child_of(domain, "name").text = child.name
    child_of(domain, "uuid").text = child.uuid
    for system in domain.iterfind("sysinfo/system/entry[@name='uuid']"):
        system.text = child.uuid
    for generation in domain.findall("genid"):
        generation.text = None  # libvirt makes one
    metadata = child_of(domain, "metadata")
    for namespace in (metadata_xml.NAMESPACE, metadata_xml.FORMER_NAMESPACE):
        for former in metadata.findall(f"{{{namespace}}}vm"):
            metadata.remove(former)
    metadata.append(metadata_xml.element(child.metadata))


def _set_interfaces(domain: etree._Element, child: GuestSpec) -> None:
    """Nothing leaves a child before its hooks have passed: every cable is unplugged."""
    for number, interface in enumerate(domain.findall("devices/interface")):
        child_of(interface, "mac").set("address", _own_mac(child, number))
        for link in interface.findall("link"):
            interface.remove(link)
        interface.append(E.link(state="up" if child.link_up else "down"))
        unset(interface.iterfind("virtualport/parameters"), "interfaceid")
        for rule in interface.findall("filterref/parameter"):
            if rule.get("name") in ("MAC", "IP"):  # the parent's; libvirt finds the child's
                _parent_of(rule).remove(rule)
    for vsock in domain.findall("devices/vsock/cid"):
        unset([vsock], "address")
        vsock.set("auto", "yes")


def _own_mac(child: GuestSpec, number: int) -> str:
    """The first is in the spec; those of further interfaces follow from it."""
    if number == 0:
        return child.mac
    return random_mac(hashlib.sha256(f"{child.mac} {number}".encode()).digest()[:5])


def _parent_of(element: etree._Element) -> etree._Element:
    parent = element.getparent()
    if parent is None:
        raise ValueError("a document's root has no parent")
    return parent
