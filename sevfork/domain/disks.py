"""The disks of a domain: made, found, and every file that a domain uses."""

from __future__ import annotations

import string
from dataclasses import dataclass

from lxml import etree

from sevfork.domain.elements import E, parse, to_text

# virtio-blk's limit for a serial number.
SERIAL_LIMIT = 20


def disk(
    path: str, serial: str, target: str, *, readonly: bool, shared: bool = False
) -> etree._Element:
    """A raw virtio-blk disk. The guest finds it by its serial, never by its name.

    ``shared``: several guests have it at once, one of them to write. Without it QEMU's locks keep
    the second one from starting.
    """
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
    if shared:
        element.append(E.shareable())
    element.append(E.serial(serial))
    return element


def disk_xml(path: str, serial: str, target: str, *, readonly: bool, shared: bool = False) -> str:
    """The same as text, to attach to a running domain or detach from it."""
    return to_text(disk(path, serial, target, readonly=readonly, shared=shared))


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
