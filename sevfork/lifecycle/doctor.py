"""``sevfork doctor``: what this host can do, what is missing, and how to get it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from sevfork.domain.launch_security import security_types
from sevfork.domain.spec import Accelerator, GuestSpec
from sevfork.domain.xml import spec_from_xml
from sevfork.errors import SevforkError, WrongState
from sevfork.host import kvm_probe
from sevfork.host.hypervisor import HostFacts, Hypervisor

# One small guest and its image.
_LEAST_MEMORY_MIB = 768
_LEAST_POOL_BYTES = 2**30

_BUILD_PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "mkfs.erofs": "erofs-utils",
    "veritysetup": "cryptsetup-bin",
}


class Standing(Enum):
    OK = "ok"
    LIMITED = "limited"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """One thing looked at; ``remedy`` says how to get what is missing."""

    subject: str
    verdict: Standing
    found: str
    remedy: str | None = None


@dataclass(frozen=True)
class Report:
    """``runs_guests``: whether anything at all can be run here."""

    findings: tuple[Finding, ...]
    runs_guests: bool


def examine(connect: Callable[[], Hypervisor]) -> Report:
    """Look at everything; a libvirt that does not answer is a finding like any other."""
    findings = list(_programs())
    try:
        hypervisor = connect()
        facts = hypervisor.facts()
    except SevforkError as exc:
        findings.append(Finding("libvirt", Standing.MISSING, exc.message, exc.hint))
        return Report(tuple(findings), runs_guests=False)
    needed = [*_host(hypervisor, facts), _accelerator(hypervisor)]
    findings += [*needed, *_technologies(hypervisor, facts)]
    return Report(tuple(findings), all(each.verdict is not Standing.MISSING for each in needed))


def _programs() -> Iterator[Finding]:
    for program, package in _BUILD_PROGRAMS.items():
        path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
        if path:
            yield Finding(f"{program} (guest build)", Standing.OK, path)
        else:
            remedy = f"apt install {package}"
            yield Finding(f"{program} (guest build)", Standing.LIMITED, "not installed", remedy)


def _host(hypervisor: Hypervisor, facts: HostFacts) -> Iterator[Finding]:
    libvirt, qemu = (".".join(map(str, each)) for each in (facts.libvirt, facts.qemu))
    yield Finding("libvirt", Standing.OK, f"{libvirt} at '{hypervisor.uri}' on '{facts.name}'")
    yield Finding("QEMU", Standing.OK, qemu)
    memory = f"{facts.free_memory_mib} of {facts.memory_mib} MiB free, {facts.cpus} CPUs"
    enough = facts.free_memory_mib >= _LEAST_MEMORY_MIB
    yield Finding(
        "memory",
        Standing.OK if enough else Standing.MISSING,
        memory,
        None if enough else f"a guest needs {_LEAST_MEMORY_MIB} MiB: end something",
    )
    yield _storage(hypervisor)


def _storage(hypervisor: Hypervisor) -> Finding:
    try:
        free, path = hypervisor.storage.free_bytes(), hypervisor.storage.path_of("")
    except SevforkError as exc:
        return Finding("storage pool", Standing.MISSING, exc.message, exc.hint)
    found = f"{free / 2**30:.1f} GiB free in '{path}'"
    if free < _LEAST_POOL_BYTES:
        return Finding("storage pool", Standing.MISSING, found, "make room: 1 GiB at least")
    return Finding("storage pool", Standing.OK, found)


def _accelerator(hypervisor: Hypervisor) -> Finding:
    tried, probe = _try_kvm(hypervisor)
    if probe.works:
        return Finding("KVM", Standing.OK, f"runs {tried}")
    if hypervisor.domain_capabilities(Accelerator.TCG) is None:
        return Finding("KVM", Standing.MISSING, probe.reason, "apt install qemu-system-x86")
    remedy = "guests run under software emulation, about 20 times slower; use a host with KVM"
    return Finding("KVM", Standing.LIMITED, f"{probe.reason} (tried: {tried})", remedy)


def _try_kvm(hypervisor: Hypervisor) -> tuple[str, kvm_probe.Probe]:
    """What was tried, and what came of it: the least of kernels may run where a real one fails."""
    known = _any_vm(hypervisor)
    if known:
        image = f"the kernel of image '{known.metadata.image}'"
        return image, kvm_probe.kvm(hypervisor, known.boot)
    least = "a test kernel of some 100 bytes; 'sevfork up' tries the image's own"
    return least, kvm_probe.kvm_without_image(hypervisor)


def _any_vm(hypervisor: Hypervisor) -> GuestSpec | None:
    """A VM of sevfork's: what it boots is in the storage pool."""
    for domain in hypervisor.domains():
        if domain.metadata_xml is not None:
            with contextlib.suppress(WrongState):  # it went away meanwhile, or was edited
                return spec_from_xml(hypervisor.xml(domain.uuid))
    return None


@dataclass(frozen=True)
class _Hardware:
    """What one technology needs of a libvirt host."""

    sectype: str
    name: str
    libvirt: tuple[int, int, int]
    qemu: tuple[int, int, int]
    kernel: str
    parameter: Path
    remedy: str


_HARDWARE = (
    _Hardware(
        "sev-snp",
        "AMD SEV-SNP",
        (10, 5, 0),
        (9, 1, 0),
        "6.11",
        Path("/sys/module/kvm_amd/parameters/sev_snp"),
        "an EPYC of the third generation or later, SEV-SNP enabled in the BIOS",
    ),
    _Hardware(
        "tdx",
        "Intel TDX",
        (11, 10, 0),
        (10, 1, 0),
        "6.16",
        Path("/sys/module/kvm_intel/parameters/tdx"),
        "a Xeon of the fourth generation or later with TDX enabled in the BIOS, kvm_intel.tdx=1",
    ),
)


def _technologies(hypervisor: Hypervisor, facts: HostFacts) -> Iterator[Finding]:
    yield Finding("simulated (not confidential)", Standing.OK, "needs no hardware")
    offered = security_types(hypervisor.domain_capabilities(Accelerator.KVM))
    for hardware in _HARDWARE:
        yield _technology(hardware, hypervisor, facts, offered)


def _technology(
    hardware: _Hardware, hypervisor: Hypervisor, facts: HostFacts, offered: frozenset[str]
) -> Finding:
    lacks = list(_lacks(hardware, hypervisor, facts, offered))
    if not lacks:
        found = "libvirt offers it; sevfork was never run on such hardware"
        return Finding(hardware.name, Standing.LIMITED, found)
    return Finding(hardware.name, Standing.LIMITED, "; ".join(lacks), hardware.remedy)


def _lacks(
    hardware: _Hardware, hypervisor: Hypervisor, facts: HostFacts, offered: frozenset[str]
) -> Iterator[str]:
    for name, got, want in (
        ("libvirt", facts.libvirt, hardware.libvirt),
        ("QEMU", facts.qemu, hardware.qemu),
    ):
        if got < want:
            yield f"{name} {_dotted(got)}, needs {_dotted(want)}"
    if hypervisor.local and not _is_on(hardware.parameter):
        yield f"the kernel (needs {hardware.kernel} or later) has it not enabled"
    if hardware.sectype not in offered:
        yield "libvirt does not offer it"


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version[:2]))


def _is_on(parameter: Path) -> bool:
    try:
        return parameter.read_text().strip() in ("Y", "1")
    except OSError:
        return False
