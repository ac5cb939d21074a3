"""What a domain of SEV-SNP or TDX needs: ``<launchSecurity>`` and what has to stand beside it.

Sources: https://libvirt.org/formatdomain.html#launch-security,
https://libvirt.org/kbase/launch_security_sev.html, QEMU's docs/system/i386/{amd-memory-encryption,
tdx}.rst. No run on such hardware was possible yet: the XML is checked against libvirt's schema.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lxml import etree

from sevfork.domain.elements import E, parse
from sevfork.domain.spec import SNP_CPU_MODEL, HardwareLaunch
from sevfork.errors import HostCannot, WrongState
from sevfork.technology import Technology

# Reserved bit 17 must be one; SMT is allowed; no debugging, no migration agent (SNP ABI, table 10).
SNP_POLICY = 0x30000
# Bit 28 SEPT_VE_DISABLE; bit 0, debugging, is off (TDX module ABI, TD attributes).
TDX_POLICY = 0x10000000
_QUOTE_SERVICE = "/var/run/tdx-qgs/qgs.socket"
# Firmware that is loaded as ROM, by what its file is called in distributions.
_FIRMWARE = {Technology.SEV_SNP: "amdsev", Technology.TDX: "tdx"}


@dataclass(frozen=True)
class _FirmwareAsRom:
    """``firmware`` is a path on the libvirt host."""

    firmware: str

    def loader(self) -> etree._Element:
        """Stateless firmware, loaded as ROM: flash could be written, and is not measured."""
        return E.loader(self.firmware, type="rom")


@dataclass(frozen=True)
class SnpLaunch(_FirmwareAsRom):
    """``cbitpos`` and ``reduced_phys_bits`` are the host's; ``host_data`` has 32 bytes."""

    cbitpos: int
    reduced_phys_bits: int
    host_data: bytes
    policy: int = SNP_POLICY

    def with_config_hash(self, config_hash: bytes) -> SnpLaunch:
        return replace(self, host_data=config_hash)

    def launch_security(self) -> etree._Element:
        return E.launchSecurity(
            E.cbitpos(str(self.cbitpos)),
            E.reducedPhysBits(str(self.reduced_phys_bits)),
            E.policy(f"0x{self.policy:08x}"),
            E.hostData(_base64(self.host_data)),
            # Kernel, initrd and command line are part of what is measured.
            type="sev-snp",
            kernelHashes="yes",
        )

    def features(self) -> list[etree._Element]:
        """System management mode would be the host's way in."""
        return [E.smm(state="off")]

    def cpu(self) -> etree._Element:
        model = E.model(SNP_CPU_MODEL, fallback="forbid")
        return E.cpu(model, mode="custom", match="exact", check="none")

    @classmethod
    def read(cls, element: etree._Element, firmware: str) -> SnpLaunch:
        return cls(
            firmware,
            cbitpos=int(element.findtext("cbitpos") or ""),
            reduced_phys_bits=int(element.findtext("reducedPhysBits") or ""),
            host_data=_bytes(element, "hostData", 32),
            policy=int(element.findtext("policy") or "", 0),
        )


@dataclass(frozen=True)
class TdxLaunch(_FirmwareAsRom):
    """``mr_config_id`` has 48 bytes."""

    mr_config_id: bytes
    policy: int = TDX_POLICY
    quote_service: str = _QUOTE_SERVICE

    def with_config_hash(self, config_hash: bytes) -> TdxLaunch:
        return replace(self, mr_config_id=config_hash)

    def launch_security(self) -> etree._Element:
        return E.launchSecurity(
            E.policy(f"0x{self.policy:08x}"),
            E.mrConfigId(_base64(self.mr_config_id)),
            # Without it the guest gets reports, which only this machine can check, and no quote.
            E.quoteGenerationService(path=self.quote_service),
            type="tdx",
        )

    def features(self) -> list[etree._Element]:
        """System management mode would be the host's way in; there is no in-kernel I/O APIC."""
        return [E.smm(state="off"), E.ioapic(driver="qemu")]

    def cpu(self) -> etree._Element:
        return E.cpu(mode="host-passthrough", check="none", migratable="off")

    @classmethod
    def read(cls, element: etree._Element, firmware: str) -> TdxLaunch:
        service = element.find("quoteGenerationService")
        return cls(
            firmware,
            mr_config_id=_bytes(element, "mrConfigId", 48),
            policy=int(element.findtext("policy") or "", 0),
            quote_service=_QUOTE_SERVICE if service is None else service.get("path", ""),
        )


def write_config_hash(domain: etree._Element, launch: HardwareLaunch) -> None:
    """Set the hash of a launch configuration in a domain, and nothing else of its launch.

    What sevfork knows nothing of (an ID block, say) is something parent and child have in common.
    """
    found = domain.find("launchSecurity")
    if found is None:
        raise WrongState("the VM's domain XML has no 'launchSecurity'")
    wanted = launch.launch_security()
    for name in ("hostData", "mrConfigId"):
        theirs, ours = found.find(name), wanted.find(name)
        if theirs is not None and ours is not None:
            theirs.text = ours.text


_LAUNCHES: Mapping[str | None, type[SnpLaunch] | type[TdxLaunch]] = {
    Technology.SEV_SNP.value: SnpLaunch,
    Technology.TDX.value: TdxLaunch,
}


def read(domain: etree._Element) -> SnpLaunch | TdxLaunch | None:
    """From a domain's XML; None for a guest that is launched like any other."""
    found = domain.find("launchSecurity")
    if found is None:
        return None
    kind, firmware = found.get("type"), domain.findtext("os/loader")
    if not firmware:
        raise WrongState("the VM's domain XML has no 'os/loader'")
    if kind not in _LAUNCHES:
        raise WrongState(f"the VM's launch security is of type '{kind}'")
    try:
        return _LAUNCHES[kind].read(found, firmware)
    except ValueError as exc:
        raise WrongState(f"the VM's launch security cannot be read: {exc}") from exc


def hardware_launch(
    technology: Technology, capabilities: str | None, config_hash: bytes
) -> SnpLaunch | TdxLaunch:
    """For a new VM, from the host's domcapabilities; raises HostCannot saying what is missing."""
    if capabilities is None or technology.value not in security_types(capabilities):
        raise HostCannot(
            f"this libvirt host does not offer '{technology.value}'",
            hint="'sevfork doctor' says what it lacks",
        )
    described = parse(capabilities)
    firmware = _firmware(technology, described)
    if technology is Technology.TDX:
        return TdxLaunch(firmware, config_hash)
    cbitpos, reduced_phys_bits = (
        _number(described, name) for name in ("cbitpos", "reducedPhysBits")
    )
    return SnpLaunch(firmware, cbitpos, reduced_phys_bits, config_hash)


def _number(capabilities: etree._Element, name: str) -> int:
    found = capabilities.findtext(f"features/sev[@supported='yes']/{name}")
    if not found or not found.isdecimal():
        raise HostCannot(f"libvirt does not say what this processor's '{name}' is")
    return int(found)


def security_types(capabilities: str | None) -> frozenset[str]:
    """What ``<launchSecurity>`` takes here; libvirt before 10.5 has no such element: nothing."""
    if capabilities is None:
        return frozenset()
    found = parse(capabilities).findall(
        "features/launchSecurity[@supported='yes']/enum[@name='sectype']/value"
    )
    return frozenset(each.text for each in found if each.text)


def rom_firmware(technology: Technology, capabilities: str) -> str:
    """The firmware that a VM gets, from the host's domcapabilities; HostCannot if there is none."""
    return _firmware(technology, parse(capabilities))


def _firmware(technology: Technology, capabilities: etree._Element) -> str:
    """By its file's name. libvirt's own choice, by descriptors, was wrong for stateless firmware
    before 11.8; and where there are two builds, the one without Secure Boot starts any kernel."""
    word = _FIRMWARE[technology]
    paths = [each.text or "" for each in capabilities.findall("os/loader[@supported='yes']/value")]
    found = [path for path in paths if word in _file_name(path)]
    if found:
        return min(found, key=wants_signed_kernels)
    package = "ovmf-amdsev" if technology is Technology.SEV_SNP else "ovmf-inteltdx"
    raise HostCannot(
        f"the libvirt host has no firmware for '{technology.value}'",
        hint=f"apt install {package} (Debian forky and later), then restart libvirtd",
    )


def wants_signed_kernels(firmware: str) -> bool:
    """Whether the firmware is a build with Secure Boot on, as distributions name them."""
    return any(word in _file_name(firmware) for word in (".ms.", ".secboot."))


def _file_name(path: str) -> str:
    return path.rpartition("/")[2].lower()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(element: etree._Element, name: str, size: int) -> bytes:
    try:
        data = base64.b64decode(element.findtext(name) or "", validate=True)
    except binascii.Error as exc:
        raise ValueError(f"'{name}' is not base64") from exc
    if len(data) != size:
        raise ValueError(f"'{name}' has {len(data)} bytes, wanted {size}")
    return data
