"""/dev/sev-guest, by a fake that reads and writes memory as the kernel's sev-guest.rst says."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass, field

import pytest

from sevfork.agent.evidence.hardware import HardwareProvider
from sevfork.agent.evidence.sev_guest import SevGuestSource
from sevfork.errors import AttestationFailed, TimedOut
from sevfork.technology import Technology

DATA = bytes(range(64))
REPORT_SIZE = 1184
TABLE = b"certificate table" * 20


def _at(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)


@dataclass
class FakeDevice:
    """The driver; ``failures`` are errnos that it answers first."""

    table: bytes = TABLE
    failures: list[int] = field(default_factory=list)
    status: int = 0
    report_size: int = REPORT_SIZE
    wanted_table_size: int = 16384
    requests: list[bytes] = field(default_factory=list)

    def ioctl(self, request: int, argument: bytearray) -> None:
        if request != 0xC0205302:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        version, request_at, response_at, _ = struct.unpack("<B7xQQQ", argument)
        asked = _at(request_at, 112)
        report_data, vmpl, table_at, table_size = struct.unpack("<64sI28xQI4x", asked)
        if not version or not request_at or not response_at or table_size % 4096:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        assert vmpl == 0
        assert asked[68:96] == bytes(28)
        self.requests.append(report_data)
        if self.failures:
            number = self.failures.pop(0)
            raise OSError(number, os.strerror(number))
        self.check_room(request_at, table_size)
        ctypes.memmove(table_at, self.table, len(self.table))
        ctypes.memmove(response_at, self._response(report_data), 32 + REPORT_SIZE)

    def check_room(self, request_at: int, table_size: int) -> None:
        if table_size < self.wanted_table_size:
            ctypes.memmove(request_at + 104, struct.pack("<I", self.wanted_table_size), 4)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _response(self, report_data: bytes) -> bytes:
        report = (bytes(0x50) + report_data).ljust(REPORT_SIZE, b"\xab")
        return struct.pack("<II24x", self.status, self.report_size) + report


def provider(device: FakeDevice, **options: object) -> HardwareProvider:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return HardwareProvider(
        Technology.SEV_SNP,
        SevGuestSource(device),
        clock=lambda: now[0],
        sleep=sleep,
        **options,  # type: ignore[arg-type]
    )


def test_report_and_certificates_come_together() -> None:
    evidence = provider(FakeDevice()).evidence(DATA)
    assert len(evidence.report) == REPORT_SIZE
    assert evidence.report[0x50:0x90] == DATA
    assert evidence.certificates.rstrip(b"\0") == TABLE


def test_the_zeros_that_a_host_without_certificates_leaves_are_no_certificates() -> None:
    assert provider(FakeDevice(table=b"")).evidence(DATA).certificates == b""


def test_a_larger_table_is_asked_for_again_with_the_room_that_it_needs() -> None:
    device = FakeDevice(wanted_table_size=20480)
    assert len(provider(device).evidence(DATA).certificates) == 20480
    assert device.requests == [DATA, DATA]


@pytest.mark.parametrize("size", [65536 + 4096, 20481])
def test_a_host_that_wants_absurd_room_is_refused(size: int) -> None:
    with pytest.raises(AttestationFailed, match=f"wants {size} bytes"):
        provider(FakeDevice(wanted_table_size=size)).evidence(DATA)


class GreedyDevice(FakeDevice):
    """Always a page more than there is."""

    def check_room(self, request_at: int, table_size: int) -> None:
        self.wanted_table_size = table_size + 4096
        super().check_room(request_at, table_size)


def test_a_host_that_always_wants_more_is_refused() -> None:
    device = GreedyDevice()
    with pytest.raises(AttestationFailed, match="keeps asking"):
        provider(device).evidence(DATA)
    assert len(device.requests) == 2


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT, errno.EINTR])
def test_a_throttled_request_is_made_again(number: int) -> None:
    device = FakeDevice(failures=[number, number])
    assert provider(device).evidence(DATA).report[0x50:0x90] == DATA


def test_a_device_that_stays_busy_ends_at_the_deadline() -> None:
    with pytest.raises(TimedOut):
        provider(FakeDevice(failures=[errno.EAGAIN] * 10_000), deadline_s=3).evidence(DATA)


def test_a_disabled_key_is_said_to_be_one() -> None:
    with pytest.raises(AttestationFailed, match="key is disabled") as caught:
        provider(FakeDevice(failures=[errno.ENOTTY])).evidence(DATA)
    assert caught.value.hint == "only a reboot helps"


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.EIO, "EIO"),
        (errno.EINVAL, "EINVAL"),
        (errno.ENODEV, "there is no '/dev/sev-guest'"),
        (errno.ENOENT, "there is no '/dev/sev-guest'"),
    ],
)
def test_other_errors_are_not_repeated(number: int, why: str) -> None:
    device = FakeDevice(failures=[number])
    with pytest.raises(AttestationFailed, match=why):
        provider(device).evidence(DATA)
    assert device.failures == []
    assert len(device.requests) == 1


def test_a_status_of_the_firmware_is_an_error() -> None:
    with pytest.raises(AttestationFailed, match="status 0x16"):
        provider(FakeDevice(status=0x16)).evidence(DATA)


def test_a_report_of_another_size_is_an_error() -> None:
    with pytest.raises(AttestationFailed, match="has 1000 bytes"):
        provider(FakeDevice(report_size=1000)).evidence(DATA)


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_of_another_size_is_refused_before_the_driver_sees_it(size: int) -> None:
    device = FakeDevice()
    with pytest.raises(AttestationFailed, match="not 64"):
        provider(device).evidence(bytes(size))
    assert device.requests == []
