"""What one VM is, as plain data: the XML that libvirt is given is made of it in ``domain.xml``."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Protocol, Self

from sevfork.domain.metadata import Metadata

if TYPE_CHECKING:
    from lxml import etree


# SNP's launch digest depends on it: pinned, never "maximum".
SNP_CPU_MODEL = "EPYC-v4"


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


class HardwareLaunch(Protocol):
    """Everything about a domain that SEV-SNP or TDX decides; ``launch_security`` has one of each.

    The methods give parts of the domain's XML.
    """

    def with_config_hash(self, config_hash: bytes) -> Self:
        """The same launch for another launch configuration (a child's)."""

    def launch_security(self) -> etree._Element: ...

    def loader(self) -> etree._Element: ...

    def features(self) -> list[etree._Element]: ...

    def cpu(self) -> etree._Element: ...


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


def console_log_name(name: str, uuid: str) -> str:
    """The volume that holds a VM's serial log; a VM of the same name later has another."""
    return f"{name}-{uuid[:8]}.log"


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
