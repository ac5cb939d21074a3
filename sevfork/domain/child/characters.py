"""Serial ports, channels and the like: what is at their other end on the host."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from lxml import etree

from sevfork.domain.child.plans import Verdict, clone, leave_out, refuse
from sevfork.domain.metadata import Metadata

_OWN_ENDS = ("pty", "null", "vc", "spicevmc", "qemu-vdagent")
# Paths that libvirt makes up for a guest that runs: .../domain-7-web/org.qemu.guest_agent.0, and
# .../channel/7-web/org.qemu.guest_agent.0 since 9.5.
_MADE_UP = re.compile(r".*/(domain-|channel/)[0-9]+-[^/]+/[^/]+")


def planned(device: etree._Element, parent: Metadata) -> Verdict:
    """By its type, https://libvirt.org/formatdomain.html#consoles-serial-parallel-channel-devices."""
    kind = device.get("type", "")
    if is_log(device, parent):
        return clone("sevfork's serial log: a file of its own")
    if kind == "dev":
        return refuse("a device of the host, which one VM has at a time")
    if kind in _OWN_ENDS:
        return clone("an end of its own on the host")
    if kind == "unix" and libvirt_chose(device):
        return clone("a socket of its own, whose path libvirt chooses")
    if kind in ("file", "pipe"):
        return leave_out("its file is the parent's")
    return leave_out("its other end, or the address that it listens on, is the parent's")


def is_log(device: etree._Element, parent: Metadata) -> bool:
    """Whether it is the serial port that writes sevfork's log."""
    source = device.find("source")
    if device.tag != "serial" or device.get("type") != "file" or source is None:
        return False
    return PurePosixPath(source.get("path", "")).name in parent.volumes


def libvirt_chose(device: etree._Element) -> bool:
    """Whether libvirt made up the path of a socket, and will make up the child's."""
    source = device.find("source")
    if source is None or not source.get("path"):
        return True
    return source.get("mode") != "connect" and bool(_MADE_UP.fullmatch(source.get("path", "")))
