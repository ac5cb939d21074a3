"""Which way to evidence a guest with hardware has."""

from __future__ import annotations

from pathlib import Path

from sevfork.agent.evidence.hardware import EvidenceSource, HardwareProvider
from sevfork.agent.evidence.provider import EvidenceProvider
from sevfork.agent.evidence.sev_guest import DEVICE, SevGuestDevice, SevGuestSource
from sevfork.agent.evidence.tsm import REPORTS, ConfigfsReports, TsmSource
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology


def hardware_provider(
    technology: Technology,
    *,
    reports: Path = REPORTS,
    device: Path = DEVICE,
) -> EvidenceProvider:
    """configfs-tsm where the kernel has it, /dev/sev-guest for SNP on an older one.

    Raises AttestationFailed if there is neither: a guest without evidence serves nobody.
    """
    return HardwareProvider(technology, _source(technology, reports, device))


def _source(technology: Technology, reports: Path, device: Path) -> EvidenceSource:
    if not technology.confidential:
        raise AttestationFailed(f"'{technology.value}' is no technology of hardware")
    if reports.is_dir():
        return TsmSource(technology, ConfigfsReports(reports))
    if technology is Technology.SEV_SNP and device.exists():
        return SevGuestSource(SevGuestDevice(device))
    raise AttestationFailed(
        f"no way to evidence: '{reports}' is absent",
        hint="configfs has to be mounted, and the driver 'tsm' loaded (Linux 6.7)",
    )
