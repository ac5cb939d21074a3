"""What sevfork knows of a VM, as it stands in the domain's libvirt ``<metadata>``.

Any admin on any machine therefore sees the same tree. The host writes and reads this element; it is
for finding one's way, never for trust: what a VM really is, its evidence says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from lxml import etree

from sevfork.domain.elements import parse, to_text
from sevfork.errors import WrongState
from sevfork.handshake.launch import Role
from sevfork.technology import Technology

NAMESPACE = "https://sevfork.org/metadata/1"
PREFIX = "sevfork"


class Phase(Enum):
    """Whether the command that makes a VM has come to its end."""

    FORMING = "forming"
    READY = "ready"


@dataclass(frozen=True)
class Maker:
    """The process that makes a VM: ``start`` is its start time in clock ticks since ``boot``."""

    host: str
    boot: str
    pid: int
    start: int


@dataclass(frozen=True)
class PublishedPort:
    """A TCP port of the guest, reachable at ``host`` on the libvirt host's loopback."""

    host: int
    guest: int


@dataclass(frozen=True)
class ProcessorState:
    """What the simulated secure processor holds for one VM: 48, 32 and 32 bytes."""

    measurement: bytes
    host_data: bytes
    report_id: bytes

    def __post_init__(self) -> None:
        if (len(self.measurement), len(self.host_data), len(self.report_id)) != (48, 32, 32):
            raise WrongState("the simulated processor's state has a field of a wrong length")


@dataclass(frozen=True)
class Metadata:
    """``image`` is the image's name and ``workload_ports`` what its workload listens on;
    ``volumes`` are storage volumes made for this VM alone; ``parent`` is a libvirt UUID, kept
    when the parent is gone; ``fork_id`` is 16 bytes in hex."""

    technology: Technology
    role: Role
    phase: Phase
    image: str
    cpu_model: str
    generation: int = 0
    parent: str | None = None
    parent_name: str | None = None
    fork_id: str | None = None
    index: int | None = None
    workload_ports: tuple[int, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    volumes: tuple[str, ...] = ()
    maker: Maker | None = None
    processor: ProcessorState | None = None

    def to_element(self) -> etree._Element:
        """The ``<sevfork:vm>`` element."""
        root = etree.Element(_tag("vm"), nsmap={PREFIX: NAMESPACE})
        _set(root, technology=self.technology.value, role=self.role.name.lower())
        _set(root, phase=self.phase.value, generation=self.generation)
        _add(root, "image", name=self.image, cpu=self.cpu_model)
        if self.parent:
            _add(
                root,
                "fork",
                parent=self.parent,
                name=self.parent_name,
                id=self.fork_id,
                index=self.index,
            )
        for guest in self.workload_ports:
            _add(root, "listens", port=guest)
        for port in self.ports:
            _add(root, "publish", host=port.host, guest=port.guest)
        for volume in self.volumes:
            _add(root, "volume", name=volume)
        if self.maker:
            maker = self.maker
            _add(root, "maker", host=maker.host, boot=maker.boot, pid=maker.pid, start=maker.start)
        if self.processor:
            _add_processor(root, self.processor)
        return root

    def to_xml(self) -> str:
        """The element without its namespace, which libvirt's calls take and give separately."""
        root = self.to_element()
        for each in root.iter():
            each.tag = etree.QName(each).localname
        etree.cleanup_namespaces(root)
        return to_text(root)

    @classmethod
    def from_xml(cls, text: str) -> Metadata:
        """Read the element, with its namespace or as libvirt gives it, without.

        Raises WrongState with the reason for anything else.
        """
        root = parse(text)
        for each in root.iter(etree.Element):
            each.tag = _tag(etree.QName(each).localname)
        try:
            return _read(root)
        except (KeyError, ValueError) as exc:
            raise WrongState(
                f"a VM's sevfork metadata cannot be read: {exc}",
                hint="it was written by another version, or edited by hand",
            ) from exc


def from_domain_xml(text: str) -> Metadata | None:
    """The metadata in a whole domain's XML, None where sevfork did not make the domain."""
    found = parse(text).find(f"metadata/{_tag('vm')}")
    return None if found is None else Metadata.from_xml(to_text(found))


def _tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def _set(element: etree._Element, **attributes: object) -> None:
    for name, value in attributes.items():
        if value is not None:
            element.set(name, str(value))


def _add(into: etree._Element, tag: str, /, **attributes: object) -> None:
    _set(etree.SubElement(into, _tag(tag)), **attributes)


def _add_processor(root: etree._Element, state: ProcessorState) -> None:
    _add(
        root,
        "processor",
        measurement=state.measurement.hex(),
        hostData=state.host_data.hex(),
        reportId=state.report_id.hex(),
    )


def _read(root: etree._Element) -> Metadata:
    if root.tag != _tag("vm"):
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
        ports=tuple(
            PublishedPort(int(each["host"]), int(each["guest"])) for each in _all(root, "publish")
        ),
        volumes=tuple(_volume_name(each["name"]) for each in _all(root, "volume")),
        maker=_read_maker(_only(root, "maker")),
        processor=_read_processor(_only(root, "processor")),
    )


def _all(root: etree._Element, name: str) -> Iterable[dict[str, str]]:
    return ({str(k): str(v) for k, v in each.attrib.items()} for each in root.findall(_tag(name)))


def _only(root: etree._Element, name: str) -> dict[str, str]:
    found = list(_all(root, name))
    if len(found) > 1:
        raise ValueError(f"more than one '{name}'")
    return found[0] if found else {}


def _volume_name(name: str) -> str:
    # What stands here gets deleted by `sevfork rm`: only ever a plain name in sevfork's own pool.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"'{name}' is not a volume's name")
    return name


def _read_maker(maker: dict[str, str]) -> Maker | None:
    if not maker:
        return None
    return Maker(maker["host"], maker["boot"], int(maker["pid"]), int(maker["start"]))


def _read_processor(state: dict[str, str]) -> ProcessorState | None:
    if not state:
        return None
    fields = (state[name] for name in ("measurement", "hostData", "reportId"))
    return ProcessorState(*(bytes.fromhex(each) for each in fields))
