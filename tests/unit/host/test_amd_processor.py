"""/proc/cpuinfo, and /dev/sev by a fake that answers as Linux's psp-sev.h says."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

import pytest

from sevfork.attest.snp.report import Cpuid, FirmwareVersion, Product, Tcb
from sevfork.host.amd_processor import Processor, SnpPlatform, read_processor, snp_platform

CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 160
model name\t: AMD EPYC 9754 128-Core Processor
stepping\t: 2
microcode\t: 0xaa00219

processor\t: 1
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
stepping\t: 1
microcode\t: 0xa101154
"""
CURRENT, REPORTED = Tcb(10, 0, 0x1B, 0x19).encode(), Tcb(10, 0, 0x17, 0x19).encode()


class FakeSev:
    """The driver of the secure processor; with an errno it fails instead."""

    def __init__(self, error: int = 0) -> None:
        self.error = error

    def ioctl(self, request: int, argument: bytearray) -> None:
        command, answer_at, _ = struct.unpack("<IQI", argument)
        assert (request, command) == (0xC0105300, 9)
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        answer = struct.pack("<BBBBIII8s8s", 1, 55, 1, 1, 40, 0, 3, CURRENT, REPORTED)
        ctypes.memmove(answer_at, answer, len(answer))


def test_the_first_processor_is_read() -> None:
    processor = read_processor(CPUINFO)
    assert processor == Processor("AuthenticAMD", Cpuid(0x19, 0xA0, 2), 0xAA00219)
    assert processor.microcode_svn == 0x19


@pytest.mark.parametrize("name", ["vendor_id", "cpu family", "stepping", "microcode"])
def test_a_machine_that_does_not_say_is_not_guessed(name: str) -> None:
    assert read_processor(CPUINFO.replace(name, "x")) is None
    assert read_processor("") is None
    assert read_processor(CPUINFO.replace("0xaa00219", "new")) is None


def test_the_secure_processor_says_its_firmware_and_tcbs() -> None:
    platform = snp_platform(FakeSev())
    assert platform == SnpPlatform(FirmwareVersion(1, 55, 40), CURRENT, REPORTED)
    assert Tcb.decode(platform.reported_tcb, Product.GENOA).snp == 0x17


def test_a_secure_processor_that_may_not_be_asked_is_an_os_error() -> None:
    with pytest.raises(PermissionError):
        snp_platform(FakeSev(errno.EACCES))
