"""``sevfork measure``: the launch digest to expect of an image, before anything runs."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from sevfork.attest.policy import Policy
from sevfork.domain.spec import SNP_CPU_MODEL
from sevfork.errors import HostCannot, UsageError
from sevfork.image.image import Image
from sevfork.image.manifest_json import VCPUS
from sevfork.simulated.launch_digest import simulated_launch_digest
from sevfork.technology import Technology
from sevfork.verifier.launch_digest import MeasuredLaunch, snp_launch_digest


@dataclass(frozen=True)
class Firmware:
    """What SNP measures besides the image: OVMF, and how the vCPUs begin."""

    path: Path | None = None
    cpu_model: str | None = None
    guest_features: int = 0x1


def measure_image(image: Image, technology: Technology, vcpus: int, firmware: Firmware) -> str:
    """48 bytes in hexadecimal. Raises UsageError for what is missing, HostCannot for TDX."""
    if technology is Technology.TDX:
        raise HostCannot("a TDX guest has no single launch digest: its quote has MRTD and RTMRs")
    if technology is Technology.SIMULATED:
        kernel, initrd = (_sha384(each.path) for each in (image.kernel, image.initrd))
        cmdline = image.cmdline.encode()
        return simulated_launch_digest(kernel, initrd, cmdline, vcpus, image.cpu_model).hex()
    if firmware.path is None:
        raise UsageError("SNP measures the firmware too", hint="give the host's OVMF with --ovmf")
    launch = MeasuredLaunch(
        firmware=firmware.path,
        kernel=image.kernel.path,
        initrd=image.initrd.path,
        cmdline=image.cmdline,
        vcpus=vcpus,
        cpu_model=firmware.cpu_model or SNP_CPU_MODEL,
        guest_features=firmware.guest_features,
    )
    return snp_launch_digest(launch).hex()


def pin_files(policy: Policy, image: Image, firmware: Firmware) -> Policy:
    """The policy, accepting nothing but what the image's files measure to, for usual vCPUs."""
    if policy.snp is None:
        raise UsageError("a policy without SNP has no launch digest: list a TDX guest's registers")
    digests = tuple(measure_image(image, image.technology, vcpus, firmware) for vcpus in VCPUS)
    return replace(policy, snp=replace(policy.snp, measurements=digests))


def parse_guest_features(text: str) -> int:
    """``0x1`` or decimal, 64 bits. Raises UsageError."""
    if not re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,19}", text):
        raise UsageError(f"'{text}' is not a number such as 0x1")
    return int(text, 0)


def _sha384(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha384").digest()
