"""A host beside the minimum TCBs: mended, behind, and not to be told."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable

import pytest

from sevfork.attest.snp.report import Cpuid, FirmwareVersion, Tcb
from sevfork.host.amd_processor import Processor, SnpPlatform
from sevfork.lifecycle.finding import Standing
from sevfork.lifecycle.host_tcb import tcb_finding

GENOA, TURIN = Cpuid(0x19, 0x11, 1), Cpuid(0x1A, 2, 1)
Ask = Callable[[], SnpPlatform]


def amd(cpuid: Cpuid, microcode: int) -> Processor:
    return Processor("AuthenticAMD", cpuid, 0x0A101100 | microcode)


def reported(tcb: Tcb) -> Ask:
    """A secure processor whose reports have this TCB, whatever it runs."""
    newest = Tcb(255, 255, 255, 255, tcb.fmc and 255)
    return lambda: SnpPlatform(FirmwareVersion(1, 55, 49), newest.encode(), tcb.encode())


def failing(number: int) -> Ask:
    def ask() -> SnpPlatform:
        raise OSError(number, os.strerror(number))

    return ask


@pytest.mark.parametrize(
    ("cpuid", "tcb"), [(GENOA, Tcb(10, 0, 0x1B, 0x56)), (TURIN, Tcb(1, 1, 4, 0x51, 1))]
)
def test_a_host_with_everything_known_is_fine(cpuid: Cpuid, tcb: Tcb) -> None:
    found = tcb_finding(amd(cpuid, tcb.microcode), reported(tcb))
    assert (found.verdict, found.remedy) == (Standing.OK, None)
    assert f"microcode {tcb.microcode:#04x}, SNP {tcb.snp:#04x} (firmware 1.55.49)" in found.found


def test_a_host_that_guests_refuse_is_told_what_is_not_mended() -> None:
    found = tcb_finding(amd(GENOA, 0x53), reported(Tcb(10, 0, 0x17, 0x53)))
    assert found.verdict is Standing.LIMITED
    assert "guests refuse this host" in (found.remedy or "")
    assert "AMD-SB-3019: a host can load microcode of its own" in (found.remedy or "")


def test_a_host_behind_the_newest_is_told_so_and_not_that_guests_refuse_it() -> None:
    found = tcb_finding(amd(GENOA, 0x54), reported(Tcb(10, 0, 0x17, 0x54)))
    assert found.verdict is Standing.LIMITED
    assert "--tcb newest" in (found.remedy or "")
    named = re.findall(r"AMD-SB-[0-9]+", found.remedy or "")
    assert named == ["AMD-SB-3020", "AMD-SB-3027", "AMD-SB-3023"]


def test_what_reports_say_counts_and_not_what_runs() -> None:
    """The host may run mended firmware and report an old TCB: guests go by the report."""
    found = tcb_finding(amd(GENOA, 0x56), reported(Tcb(10, 0, 0x16, 0x56)))
    assert "guests refuse this host" in (found.remedy or "")


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EINVAL])
def test_firmware_that_could_not_be_asked_is_said_to_be_so(number: int) -> None:
    found = tcb_finding(amd(GENOA, 0x56), failing(number))
    assert found.verdict is Standing.LIMITED
    assert f"SNP firmware not asked: {os.strerror(number).lower()}" in found.found
    assert "as root" in (found.remedy or "")


def test_old_microcode_is_seen_without_the_firmware() -> None:
    found = tcb_finding(amd(GENOA, 0x53), failing(errno.EACCES))
    assert "guests refuse this host" in (found.remedy or "")


def test_a_tcb_that_is_none_is_not_believed() -> None:
    def ask() -> SnpPlatform:
        return SnpPlatform(FirmwareVersion(1, 55, 49), bytes(8), b"\xff" * 8)

    assert "not understood" in tcb_finding(amd(GENOA, 0x56), ask).found


@pytest.mark.parametrize(
    ("processor", "why"),
    [
        (None, "does not say which processor"),
        (amd(Cpuid(0x19, 0x21, 0), 0x10), "no figure is known for family 19h, model 21h"),
        (Processor("GenuineIntel", Cpuid(6, 207, 2), 1), "Intel's collateral"),
        (Processor("Other", GENOA, 1), "no figure is known"),
    ],
)
def test_what_cannot_be_compared_says_why(processor: Processor | None, why: str) -> None:
    found = tcb_finding(processor, failing(errno.ENOENT))
    assert found.verdict is Standing.LIMITED
    assert found.found.startswith("not compared: ")
    assert why in found.found
