"""What this machine says of its AMD processor: silicon, microcode, and the SNP firmware's TCB.

Sources: ``/proc/cpuinfo``; Linux, include/uapi/linux/psp-sev.h. ``/dev/sev`` is root's. One ioctl,
SEV_ISSUE_CMD with the command SNP_PLATFORM_STATUS, changes nothing and gives the rest::

    argument (16): u32 command = 9 | u64 address of the answer | u32 the firmware's error
    answer (32): u8 API major | u8 minor | u8 state | u8 | u32 build | u32 flags | u32 guests
                 | 8 current TCB | 8 reported TCB
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from sevfork.agent.evidence.sev_guest import Device, SevGuestDevice
from sevfork.attest.snp.report import Cpuid, FirmwareVersion

CPUINFO = Path("/proc/cpuinfo")
DEVICE = Path("/dev/sev")
AMD, INTEL = "AuthenticAMD", "GenuineIntel"
SEV_ISSUE_CMD = 0xC0105300
SNP_PLATFORM_STATUS = 9
_ARGUMENT = Struct("<IQI")
_ANSWER = Struct("<BB2xI8x8s8s")


@dataclass(frozen=True)
class Processor:
    """``microcode``: the whole patch level; its low byte is the security patch level."""

    vendor: str
    cpuid: Cpuid
    microcode: int

    @property
    def microcode_svn(self) -> int:
        return self.microcode & 0xFF


@dataclass(frozen=True)
class SnpPlatform:
    """TCBs are eight bytes each, laid out as the product's; reports have ``reported_tcb``."""

    firmware: FirmwareVersion
    current_tcb: bytes
    reported_tcb: bytes


def read_processor(cpuinfo: str) -> Processor | None:
    """The first processor of /proc/cpuinfo; None where it does not say which one that is."""
    first = cpuinfo.split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    try:
        cpuid = Cpuid(*(int(fields[name]) for name in ("cpu family", "model", "stepping")))
        return Processor(fields["vendor_id"], cpuid, int(fields["microcode"], 16))
    except (KeyError, ValueError):
        return None


def snp_platform(device: Device | None = None) -> SnpPlatform:
    """Ask the secure processor; raises OSError with the kernel's errno."""
    answer = ctypes.create_string_buffer(_ANSWER.size)
    argument = bytearray(_ARGUMENT.pack(SNP_PLATFORM_STATUS, ctypes.addressof(answer), 0))
    (device or SevGuestDevice(DEVICE)).ioctl(SEV_ISSUE_CMD, argument)
    major, minor, build, current, reported = _ANSWER.unpack(answer.raw)
    return SnpPlatform(FirmwareVersion(major, minor, build), current, reported)
