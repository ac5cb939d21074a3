"""A domain of an admin's own, ``up --xml``, made fork-ready: what a fork needs is added.

What contradicts that is refused, in the admin's words. The rest stays as it was written.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

from lxml import etree

from sevfork.domain import metadata_xml
from sevfork.domain.child import live
from sevfork.domain.child.devices import planned
from sevfork.domain.child.plans import Plan
from sevfork.domain.child.transform import refused_settings
from sevfork.domain.elements import E, child_of, parse, to_text, unset
from sevfork.domain.spec import Accelerator, GuestSpec
from sevfork.domain.xml import CHANNEL_NAME, ROOT_SERIAL, domain_xml, memory_mib
from sevfork.errors import UsageError, WrongState

# What the image and its technology decide.
_DECIDED = ("os/kernel", "os/initrd", "os/cmdline", "os/loader", "launchSecurity")
_SEVFORKS = (metadata_xml.NAMESPACE, metadata_xml.FORMER_NAMESPACE)


@dataclass(frozen=True)
class Template:
    """An admin's domain; None is what it does not say."""

    text: str
    accelerator: Accelerator | None
    memory_mib: int | None
    vcpus: int | None
    mac: str | None

    @classmethod
    def read(cls, text: str) -> Template:
        """Raises UsageError for what is no domain, or contradicts what a fork needs."""
        try:
            domain = parse(text)
        except WrongState as exc:
            raise UsageError("the file of --xml is not well-formed") from exc
        try:
            _require_no_contradiction(domain)
            return cls(
                text=text,
                accelerator=_accelerator(domain),
                memory_mib=None if domain.find("memory") is None else memory_mib(domain),
                vcpus=_vcpus(domain),
                mac=_mac(domain),
            )
        except WrongState as exc:
            raise UsageError(f"the file of --xml: {exc.message}") from exc


def fork_ready_xml(template: Template, spec: GuestSpec) -> str:
    """The domain for libvirt to define. Raises UsageError where a device cannot be forked."""
    domain, ours = parse(template.text), parse(domain_xml(spec))
    refused = [*_refused_devices(domain, spec), *map(str, refused_settings(domain))]
    if refused:
        raise UsageError(f"a VM cannot be forked with {'; '.join(refused)}")
    live.strip(domain)
    domain.set("type", spec.accelerator.value)
    _set_identity(domain, ours)
    for name in ("memory", "vcpu", "on_poweroff", "on_reboot", "on_crash"):
        _replace(domain, ours, name)
    _add_boot(domain, ours)
    for name in ("features", "clock"):
        _add_missing(domain, ours, name)
    _set_cpu(domain, ours)
    _add_devices(domain, ours)
    domain.extend(ours.findall("launchSecurity"))
    etree.indent(domain)
    return to_text(domain, indent=True)


def _require_no_contradiction(domain: etree._Element) -> None:
    if domain.tag != "domain":
        raise UsageError(f"the file of --xml has no domain in it but '{domain.tag}'")
    for path in _DECIDED:
        if domain.find(path) is not None:
            raise UsageError(
                f"the file of --xml has '{path}', which the guest image decides",
                hint="take it out; 'sevfork up --print-xml' shows what will be there",
            )
    machine = domain.find("os/type")
    if machine is not None:
        _require_words(machine, "q35", machine.get("machine", "q35"))
        _require_words(machine, "x86_64", machine.get("arch", "x86_64"))
    _require_user_network(domain.find("devices/interface"))
    names = [each.get("name") for each in domain.findall("devices/channel/target")]
    serials = [each.text for each in domain.findall("devices/disk/serial")]
    for name in {CHANNEL_NAME, ROOT_SERIAL} & {*names, *serials}:
        raise UsageError(f"the file of --xml has a device '{name}', which sevfork adds")


def _require_user_network(interface: etree._Element | None) -> None:
    """The guest's address is the one that it has there, and ports are published by QEMU."""
    if interface is None:
        return
    _require_words(interface, "user", interface.get("type", "user"))
    backend, model = interface.find("backend"), interface.find("model")
    if backend is not None:
        _require_words(backend, "default", backend.get("type", "default"))
    if model is not None:
        _require_words(model, "virtio", model.get("type", "virtio"))


def _require_words(element: etree._Element, needed: str, found: str) -> None:
    if needed not in found:
        raise UsageError(f"the file of --xml has '{found}' in '{element.tag}', not '{needed}'")


def _accelerator(domain: etree._Element) -> Accelerator | None:
    kind = domain.get("type")
    if kind not in {each.value for each in Accelerator} | {None}:
        raise UsageError(f"the file of --xml is for '{kind}', not for QEMU or KVM")
    return Accelerator(kind) if kind else None


def _vcpus(domain: etree._Element) -> int | None:
    text = domain.findtext("vcpu")
    if text is None:
        return None
    if not text.strip().isdecimal() or len(text) > 4:
        raise UsageError(f"the file of --xml has '{text}' vCPUs")
    return int(text)


def _mac(domain: etree._Element) -> str | None:
    found = domain.find("devices/interface")
    address = None if found is None else found.find("mac")
    return None if address is None else address.get("address")


def _refused_devices(domain: etree._Element, spec: GuestSpec) -> Iterator[str]:
    for device in domain.iterfind("devices/*"):
        if isinstance(device.tag, str):
            plan = planned(device, spec.metadata)
            if plan.plan is Plan.REFUSE:
                yield f"{plan}: {plan.reason}"


def _set_identity(domain: etree._Element, ours: etree._Element) -> None:
    """At the beginning, where libvirt has it."""
    metadata = deepcopy(child_of(ours, "metadata"))
    for theirs in domain.iterfind("metadata/*"):
        if not isinstance(theirs.tag, str) or etree.QName(theirs).namespace not in _SEVFORKS:
            metadata.append(deepcopy(theirs))
    for name in ("name", "uuid", "metadata"):
        _drop(domain, name)
    for element in (metadata, child_of(ours, "uuid"), child_of(ours, "name")):
        domain.insert(0, deepcopy(element))
    for entry in domain.iterfind("sysinfo/system/entry[@name='uuid']"):
        entry.text = ours.findtext("uuid")


def _replace(domain: etree._Element, ours: etree._Element, name: str) -> None:
    """An element of ours in place of theirs, whose attributes stay where ours has none."""
    wanted, found = child_of(ours, name), domain.find(name)
    if found is None:
        domain.append(deepcopy(wanted))
    else:
        found.text = wanted.text
        found.attrib.update({k: v for k, v in wanted.attrib.items() if k != "placement"})


def _add_boot(domain: etree._Element, ours: etree._Element) -> None:
    wanted, found = child_of(ours, "os"), domain.find("os")
    if found is None:
        found = etree.SubElement(domain, "os")
    kind, theirs = child_of(wanted, "type"), found.find("type")
    if theirs is None:
        found.insert(0, deepcopy(kind))
    else:
        theirs.attrib.update({**kind.attrib, **theirs.attrib})
    unset([found], "firmware")
    found.extend(deepcopy(each) for each in wanted if each.tag != "type")


def _add_missing(domain: etree._Element, ours: etree._Element, name: str) -> None:
    wanted, found = child_of(ours, name), domain.find(name)
    if found is None:
        domain.append(deepcopy(wanted))
        return
    for child in wanted:
        if found.find(str(child.tag)) is not None and child.attrib:
            _drop(found, str(child.tag))  # what the technology needs
        if found.find(str(child.tag)) is None:
            found.append(deepcopy(child))


def _set_cpu(domain: etree._Element, ours: etree._Element) -> None:
    """Model and mode are the image's; topology, NUMA cells and caches the admin's."""
    wanted, found = child_of(ours, "cpu"), domain.find("cpu")
    if found is None:
        domain.append(deepcopy(wanted))
        return
    if found.get("mode") not in (None, wanted.get("mode")):
        raise UsageError(
            f"the file of --xml has the CPU mode '{found.get('mode')}', not '{wanted.get('mode')}'"
        )
    if found.findtext("model") not in (None, wanted.findtext("model")):
        raise UsageError(f"the file of --xml has the CPU model '{found.findtext('model')}'")
    found.attrib.update(wanted.attrib)
    named = {each.get("name") for each in wanted.findall("feature")}
    for child in [*found.findall("feature"), *found.findall("model")]:
        if child.tag == "model" or child.get("name") in named:
            found.remove(child)
    found.extend(deepcopy(each) for each in wanted)


def _add_devices(domain: etree._Element, ours: etree._Element) -> None:
    """The root disk, sevfork's log as the first serial port, its channel, and spare PCI ports."""
    wanted, devices = child_of(ours, "devices"), domain.find("devices")
    if devices is None:
        devices = etree.SubElement(domain, "devices")
    for console in devices.findall("console"):
        if (target := console.find("target")) is None or target.get("type") == "serial":
            devices.remove(console)
    unset(devices.findall("serial/target"), "port")
    for name in ("rng", "memballoon", "interface"):
        if devices.find(name) is None:
            devices.extend(deepcopy(each) for each in wanted.findall(name))
    _set_interfaces(devices, wanted)
    for name in ("serial", "channel", "disk"):
        devices.insert(0, deepcopy(child_of(wanted, name)))
    child_of(devices, "disk/target").set("dev", _free_target(devices))
    if devices.find("controller[@type='usb']") is None and not _uses_usb(devices):
        devices.append(E.controller(type="usb", model="none"))
    _add_pci_ports(devices, wanted)


def _set_interfaces(devices: etree._Element, wanted: etree._Element) -> None:
    """virtio, as the guest has no other driver; on hardware no option ROM."""
    found, ours = devices.findall("interface"), child_of(wanted, "interface")
    if found[0].find("mac") is None:
        found[0].insert(0, deepcopy(child_of(ours, "mac")))
    for interface in found:
        if interface.find("model") is None:
            interface.append(E.model(type="virtio"))
        if ours.find("rom") is not None:
            _drop(interface, "rom")
            interface.append(E.rom(enabled="no"))


def _add_pci_ports(devices: etree._Element, wanted: etree._Element) -> None:
    """Spare ones too; libvirt numbers those that come after an admin's own, but for the root."""
    has_some = devices.find("controller[@type='pci']") is not None
    has_root = devices.find("controller[@model='pcie-root']") is not None
    for ours in wanted.findall("controller[@type='pci']"):
        if ours.get("model") == "pcie-root":
            if not has_root:
                devices.insert(0, deepcopy(ours))
            continue
        port = deepcopy(ours)
        unset([port] if has_some else [], "index")
        devices.append(port)


def _free_target(devices: etree._Element) -> str:
    taken = {each.get("dev") for each in devices.findall("disk/target")[1:]}
    return next(f"vd{each}" for each in string.ascii_lowercase if f"vd{each}" not in taken)


def _uses_usb(devices: etree._Element) -> bool:
    """A device on a USB bus, for which libvirt adds a controller."""
    kinds = {str(each.tag) for each in devices}
    return bool(kinds & {"hub", "redirdev", "smartcard"}) or any(
        each.get("bus") == "usb" for each in devices.iter()
    )


def _drop(element: etree._Element, name: str) -> None:
    for each in element.findall(name):
        element.remove(each)
