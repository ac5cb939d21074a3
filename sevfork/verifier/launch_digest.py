"""The SNP launch digest: what a guest's measurement has to be, computed before it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sevfork.errors import HostCannot, UsageError


@dataclass(frozen=True)
class MeasuredLaunch:
    """Everything that SNP measures of a guest whose kernel is hashed by the firmware.

    ``cpu_model`` is QEMU's name (``EPYC-v4``); ``guest_features`` are SEV_FEATURES, 0x1 for plain
    SNP.
    """

    firmware: Path
    kernel: Path
    initrd: Path
    cmdline: str
    vcpus: int
    cpu_model: str
    guest_features: int = 0x1


def snp_launch_digest(launch: MeasuredLaunch) -> bytes:
    """48 bytes, from ``sev-snp-measure``. Raise HostCannot without it, UsageError on bad input."""
    try:
        from sevsnpmeasure import guest, vcpu_types, vmm_types
        from sevsnpmeasure.sev_mode import SevMode
    except ImportError as exc:
        raise HostCannot(
            "'sev-snp-measure' is not installed", hint="pip install 'sevfork[host]'"
        ) from exc
    if launch.cpu_model not in vcpu_types.CPU_SIGS:
        raise UsageError(f"'sev-snp-measure' knows no CPU model '{launch.cpu_model}'")
    try:
        digest = guest.calc_launch_digest(
            SevMode.SEV_SNP,
            launch.vcpus,
            vcpu_types.CPU_SIGS[launch.cpu_model],
            str(launch.firmware),
            str(launch.kernel),
            str(launch.initrd),
            launch.cmdline,
            launch.guest_features,
            vmm_type=vmm_types.VMMType.QEMU,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as exc:
        raise UsageError(f"'{launch.firmware}' cannot be measured: {exc}") from exc
    return bytes(digest)
