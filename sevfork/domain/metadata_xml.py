"""``Metadata`` as the element that libvirt keeps in a domain, and back.

libvirt files an element under its namespace. Ours is a UUID, which nobody can register.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from lxml import etree

from sevfork.domain.elements import parse, to_text
from sevfork.domain.metadata import (
    LOOPBACK,
    Maker,
    Metadata,
    Phase,
    ProcessorState,
    PublishedPort,
    SnapshotVolume,
    Transport,
    Warmth,
)
from sevfork.errors import WrongState
from sevfork.handshake.launch import DIGEST_SIZE, Role
from sevfork.technology import Technology

NAMESPACE = "urn:uuid:ebdb57be-901f-4455-961d-7aba38f9a27b"
# Domains that were made before the namespace had a name of its own; they are read, never written.
FORMER_NAMESPACE = "https://sevfork.org/metadata/1"
PREFIX = "sevfork"


def element(metadata: Metadata) -> etree._Element:
    """The ``<sevfork:vm>`` element, with its namespace."""
    root = _plain(metadata)
    for each in root.iter():
        each.tag = f"{{{NAMESPACE}}}{each.tag}"
    return root


def write(metadata: Metadata) -> str:
    """The element without its namespace, which libvirt's calls take and give separately."""
    root = _plain(metadata)
    etree.cleanup_namespaces(root)
    return to_text(root)


def read(text: str) -> Metadata:
    """Read the element, with its namespace or as libvirt gives it, without.

    Raises WrongState with the reason for anything else.
    """
    root = parse(text)
    for each in root.iter(etree.Element):
        each.tag = etree.QName(each).localname
    try:
        return _read(root)
    except (KeyError, ValueError) as exc:
        raise WrongState(
            f"a VM's sevfork metadata cannot be read: {exc}",
            hint="it was written by another version, or edited by hand",
        ) from exc


def from_domain(text: str) -> Metadata | None:
    """The metadata in a whole domain's XML, None where sevfork did not make the domain."""
    return in_domain(parse(text))


def in_domain(domain: etree._Element) -> Metadata | None:
    """The same, of a domain that is read already."""
    for namespace in (NAMESPACE, FORMER_NAMESPACE):
        found = domain.find(f"metadata/{{{namespace}}}vm")
        if found is not None:
            return read(to_text(found))
    return None


def _plain(metadata: Metadata) -> etree._Element:
    root = etree.Element("vm", nsmap={PREFIX: NAMESPACE})
    _set(root, technology=metadata.technology.value, role=metadata.role.name.lower())
    _set(root, phase=metadata.phase.value, generation=metadata.generation)
    _add(root, "image", name=metadata.image, cpu=metadata.cpu_model)
    if metadata.parent:
        _add_fork(root, metadata)
    for guest in metadata.workload_ports:
        _add(root, "listens", port=guest)
    for port in metadata.ports:
        _add_port(root, port)
    for volume in metadata.volumes:
        _add(root, "volume", name=volume)
    if maker := metadata.maker:
        _add(root, "maker", host=maker.host, boot=maker.boot, pid=maker.pid, start=maker.start)
    if metadata.snapshot:
        _add(root, "snapshot", volume=metadata.snapshot.name, serial=metadata.snapshot.serial)
    if warmth := metadata.warmth:
        times = {"since": warmth.since, "refreshed": warmth.refreshed, "stale": warmth.stale}
        _add(root, "warm", serial=warmth.serial, held=warmth.held_bytes, **times)
    if metadata.owner:
        _add(root, "owner", digest=metadata.owner.hex())
    if metadata.ended is not None:
        _add(root, "ended", returncode=metadata.ended)
    if metadata.processor:
        _add_processor(root, metadata.processor)
    return root


def _add_port(root: etree._Element, port: PublishedPort) -> None:
    """What an older sevfork reads too; an address or UDP it knows nothing of."""
    address = None if port.address == LOOPBACK else port.address
    transport = None if port.transport is Transport.TCP else port.transport.value
    _add(root, "publish", host=port.host, guest=port.guest, address=address, transport=transport)


def _add_fork(root: etree._Element, metadata: Metadata) -> None:
    _add(
        root,
        "fork",
        parent=metadata.parent,
        name=metadata.parent_name,
        id=metadata.fork_id,
        index=metadata.index,
    )


def _set(element: etree._Element, **attributes: object) -> None:
    for name, value in attributes.items():
        if value is not None:
            element.set(name, str(value))


def _add(into: etree._Element, tag: str, /, **attributes: object) -> None:
    _set(etree.SubElement(into, tag), **attributes)


def _add_processor(root: etree._Element, state: ProcessorState) -> None:
    _add(
        root,
        "processor",
        measurement=state.measurement.hex(),
        hostData=state.host_data.hex(),
        reportId=state.report_id.hex(),
    )


def _read(root: etree._Element) -> Metadata:
    if root.tag != "vm":
        raise ValueError(f"got element '{root.tag}'")
    image, fork = _only(root, "image"), _only(root, "fork")
    return Metadata(
        technology=Technology(root.attrib["technology"]),
        role=Role[str(root.attrib["role"]).upper()],
        phase=Phase(root.attrib["phase"]),
        image=image["name"],
        cpu_model=image["cpu"],
        generation=int(root.attrib["generation"]),
        parent=fork.get("parent"),
        parent_name=fork.get("name"),
        fork_id=fork.get("id"),
        index=int(fork["index"]) if "index" in fork else None,
        workload_ports=tuple(int(each["port"]) for each in _all(root, "listens")),
        ports=tuple(_read_port(each) for each in _all(root, "publish")),
        volumes=tuple(_volume_name(each["name"]) for each in _all(root, "volume")),
        maker=_read_maker(_only(root, "maker")),
        snapshot=_read_snapshot(_only(root, "snapshot")),
        warmth=_read_warmth(_only(root, "warm")),
        owner=_read_owner(_only(root, "owner")),
        ended=_read_ended(_only(root, "ended")),
        processor=_read_processor(_only(root, "processor")),
    )


def _all(root: etree._Element, name: str) -> Iterable[dict[str, str]]:
    return ({str(k): str(v) for k, v in each.attrib.items()} for each in root.findall(name))


def _only(root: etree._Element, name: str) -> dict[str, str]:
    found = list(_all(root, name))
    if len(found) > 1:
        raise ValueError(f"more than one '{name}'")
    return found[0] if found else {}


def _read_port(port: dict[str, str]) -> PublishedPort:
    address = str(ipaddress.IPv4Address(port.get("address", LOOPBACK)))
    transport = Transport(port.get("transport", "tcp"))
    return PublishedPort(int(port["host"]), int(port["guest"]), address, transport)


def _volume_name(name: str) -> str:
    # What stands here gets deleted by `sevfork rm`: only ever a plain name in sevfork's own pool.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"'{name}' is not a volume's name")
    return name


def _read_maker(maker: dict[str, str]) -> Maker | None:
    if not maker:
        return None
    return Maker(maker["host"], maker["boot"], int(maker["pid"]), int(maker["start"]))


def _read_snapshot(snapshot: dict[str, str]) -> SnapshotVolume | None:
    if not snapshot:
        return None
    return SnapshotVolume(_volume_name(snapshot["volume"]), snapshot["serial"])


def _read_warmth(warmth: dict[str, str]) -> Warmth | None:
    if not warmth:
        return None
    names = ("since", "refreshed", "stale", "held")
    since, refreshed, stale, held_bytes = (int(warmth[name]) for name in names)
    return Warmth(warmth["serial"], since, refreshed, stale, held_bytes)


def _read_owner(owner: dict[str, str]) -> bytes | None:
    if not owner:
        return None
    digest = bytes.fromhex(owner["digest"])
    if len(digest) != DIGEST_SIZE:
        raise ValueError("an owner's digest has 48 bytes")
    return digest


def _read_ended(ended: dict[str, str]) -> int | None:
    return int(ended["returncode"]) if ended else None


def _read_processor(state: dict[str, str]) -> ProcessorState | None:
    if not state:
        return None
    fields = (state[name] for name in ("measurement", "hostData", "reportId"))
    return ProcessorState(*(bytes.fromhex(each) for each in fields))
