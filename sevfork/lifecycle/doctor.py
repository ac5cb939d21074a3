"""``sevfork doctor``: what this host can do, what is missing, and how to get it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sevfork.attest.vendor_facts import Requirement, vendor_facts
from sevfork.domain.launch_security import rom_firmware, security_types, wants_signed_kernels
from sevfork.domain.spec import Accelerator, GuestSpec
from sevfork.domain.xml import spec_from_xml
from sevfork.errors import HostCannot, SevforkError, WrongState
from sevfork.host import kvm_probe
from sevfork.host.amd_processor import CPUINFO, read_processor, snp_platform
from sevfork.host.hypervisor import HostFacts, Hypervisor
from sevfork.lifecycle.finding import Finding, Standing
from sevfork.lifecycle.host_tcb import not_compared, tcb_finding
from sevfork.technology import Technology

# One small guest and its image.
_LEAST_MEMORY_MIB = 768
_LEAST_POOL_BYTES = 2**30

_BUILD_PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "mkfs.erofs": "erofs-utils",
    "veritysetup": "cryptsetup-bin",
}
_CONTAINER_PROGRAMS = {"skopeo": "skopeo", "umoci": "umoci"}


@dataclass(frozen=True)
class Report:
    """``runs_guests``: whether anything at all can be run here; ``technologies``: of which.

    ``firmware``: the file on the libvirt host that a guest of one starts with.
    """

    findings: tuple[Finding, ...]
    runs_guests: bool
    technologies: tuple[Technology, ...] = ()
    firmware: Mapping[Technology, str] = field(default_factory=dict)


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
    runs_guests = all(each.verdict is not Standing.MISSING for each in needed)
    hardware = [_Host.examined(each, hypervisor, facts) for each in _HARDWARE]
    findings += [*needed, _SIMULATED, *(each.finding() for each in hardware), _tcb(hypervisor)]
    firmware = {each.hardware.technology: each.firmware for each in hardware if not each.lacks}
    technologies = (Technology.SIMULATED, *firmware) if runs_guests else ()
    return Report(tuple(findings), runs_guests, technologies, firmware)


def _programs() -> Iterator[Finding]:
    wanted = [(f"{program} (guest build)", program, _BUILD_PROGRAMS) for program in _BUILD_PROGRAMS]
    wanted += [
        (f"{program} (guest build --oci, optional)", program, _CONTAINER_PROGRAMS)
        for program in _CONTAINER_PROGRAMS
    ]
    for title, program, packages in wanted:
        path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
        if path:
            yield Finding(title, Standing.OK, path)
        else:
            remedy = f"apt install {packages[program]}"
            yield Finding(title, Standing.LIMITED, "not installed", remedy)


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


_SIMULATED = Finding("simulated (not confidential)", Standing.OK, "needs no hardware")


@dataclass(frozen=True)
class _Hardware:
    """What one technology needs of a libvirt host, beside the versions in ``vendor_facts``."""

    technology: Technology
    name: str
    parameter: Path
    remedy: str


_HARDWARE = (
    _Hardware(
        Technology.SEV_SNP,
        "AMD SEV-SNP",
        Path("/sys/module/kvm_amd/parameters/sev_snp"),
        "an EPYC of the third generation or later, SEV-SNP enabled in the BIOS",
    ),
    _Hardware(
        Technology.TDX,
        "Intel TDX",
        Path("/sys/module/kvm_intel/parameters/tdx"),
        "a Xeon of the fourth generation or later with TDX enabled in the BIOS, kvm_intel.tdx=1",
    ),
)
_UNTRIED = "libvirt offers it; sevfork was never run on such hardware"
_SECURE_BOOT = "its Secure Boot may refuse the image's kernel: install a build without it"


@dataclass(frozen=True)
class _Host:
    """One technology on this libvirt host: what is lacking, or the firmware that guests get."""

    hardware: _Hardware
    lacks: tuple[str, ...]
    firmware: str = ""

    @classmethod
    def examined(cls, hardware: _Hardware, hypervisor: Hypervisor, facts: HostFacts) -> _Host:
        capabilities = hypervisor.domain_capabilities(Accelerator.KVM)
        lacks = tuple(_lacks(hardware, hypervisor, facts, security_types(capabilities)))
        if lacks or capabilities is None:
            return cls(hardware, lacks)
        try:
            return cls(hardware, (), rom_firmware(hardware.technology, capabilities))
        except HostCannot as exc:
            return cls(hardware, (f"{exc.message}: {exc.hint}",))

    def finding(self) -> Finding:
        if self.lacks:
            found, remedy = "; ".join(self.lacks), f"{self.hardware.remedy} (docs/hardware.md)"
            return Finding(self.hardware.name, Standing.LIMITED, found, remedy)
        found = f"{_UNTRIED}; firmware '{self.firmware}'"
        warning = _SECURE_BOOT if wants_signed_kernels(self.firmware) else None
        return Finding(self.hardware.name, Standing.LIMITED, found, warning)


def _lacks(
    hardware: _Hardware, hypervisor: Hypervisor, facts: HostFacts, offered: frozenset[str]
) -> Iterator[str]:
    needs = vendor_facts().requirements_of(hardware.technology)
    for need, got in ((needs["libvirt"], facts.libvirt), (needs["QEMU"], facts.qemu)):
        if got < need.numbers:
            yield f"{need.component} {_dotted(got)}, needs {need.version}"
    if hypervisor.local:
        lacking = kernel_lacks(needs["Linux"], os.uname().release, _is_on(hardware.parameter))
        yield from [lacking] if lacking else []
    if hardware.technology.value not in offered:
        yield "libvirt does not offer it"


def kernel_lacks(need: Requirement, release: str, enabled: bool) -> str | None:
    """``release``: uname's, "6.12.117+deb13-amd64"; one that has no version is not called old."""
    found = re.match(r"([0-9]+)\.([0-9]+)", release)
    if found and (int(found[1]), int(found[2])) < need.numbers:
        return f"Linux {found[0]}, needs {need.version}"
    return None if enabled else "the kernel has it not enabled"


def _tcb(hypervisor: Hypervisor) -> Finding:
    if not hypervisor.local:
        return not_compared("the libvirt host is another machine", "run 'sevfork doctor' there")
    return tcb_finding(read_processor(CPUINFO.read_text()), snp_platform)


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version[:2]))


def _is_on(parameter: Path) -> bool:
    try:
        return parameter.read_text().strip() in ("Y", "1")
    except OSError:
        return False
