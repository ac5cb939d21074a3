"""Evidence through /dev/sev-guest, for SNP guests whose kernel has no configfs-tsm (5.19 to 6.6).

Source: Documentation/virt/coco/sev-guest.rst and include/uapi/linux/sev-guest.h. One ioctl,
SNP_GET_EXT_REPORT, gives the report and the certificates that the host has for it::

    argument (32): u8 message version = 1, 7 zero | u64 request | u64 response | u64 exitinfo2
    request (112): report data 64 | u32 VMPL = 0 | 28 zero | u64 certificates | u32 their size | 4
    response (4000): u32 status | u32 report size | 24 | report
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from pathlib import Path
from struct import Struct
from typing import Protocol

from sevfork.agent.evidence.hardware import named
from sevfork.attest.evidence import CERTIFICATES_LIMIT_BYTES
from sevfork.attest.snp.report import REPORT_SIZE
from sevfork.errors import AttestationFailed

DEVICE = Path("/dev/sev-guest")
SNP_GET_EXT_REPORT = 0xC0205302
_PAGE = 4096
_FIRST_TABLE_SIZE = 4 * _PAGE  # the driver's own maximum, SEV_FW_BLOB_MAX_SIZE
_RESPONSE_SIZE = 4000
_MESSAGE_VERSION = 1
_ARGUMENT = Struct("<B7xQQQ")
_REQUEST = Struct("<64sI28xQI4x")
_RESPONSE = Struct("<II24x")
_NO_DEVICE_HINT = "is this an SNP guest, and the driver 'sev-guest' loaded?"


class Device(Protocol):
    """/dev/sev-guest."""

    def ioctl(self, request: int, argument: bytearray) -> None:
        """Raise OSError with the kernel's errno; what the argument points to may have changed."""


class SevGuestDevice:
    """The kernel's."""

    def __init__(self, path: Path = DEVICE) -> None:
        self._path = path

    def ioctl(self, request: int, argument: bytearray) -> None:
        file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(file, request, argument, True)
        finally:
            os.close(file)


class _TableTooSmall(Exception):
    """The host's certificates need a larger buffer."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.size_bytes = size_bytes


class SevGuestSource:
    """Asks the driver for SNP reports."""

    def __init__(self, device: Device | None = None) -> None:
        self._device = SevGuestDevice() if device is None else device

    def ask(self, report_data: bytes) -> tuple[bytes, bytes]:
        """Ask with the usual size of buffer, and once more with the size that the host wants."""
        try:
            return self._ask_with(report_data, _FIRST_TABLE_SIZE)
        except _TableTooSmall as exc:
            size_bytes = exc.size_bytes
        try:
            return self._ask_with(report_data, size_bytes)
        except _TableTooSmall as exc:
            raise AttestationFailed("the host keeps asking for more room for certificates") from exc

    def _ask_with(self, report_data: bytes, size_bytes: int) -> tuple[bytes, bytes]:
        certificates = ctypes.create_string_buffer(size_bytes)
        response = ctypes.create_string_buffer(_RESPONSE_SIZE)
        filled = _REQUEST.pack(report_data, 0, ctypes.addressof(certificates), size_bytes)
        request = ctypes.create_string_buffer(filled, _REQUEST.size)
        argument = bytearray(
            _ARGUMENT.pack(
                _MESSAGE_VERSION, ctypes.addressof(request), ctypes.addressof(response), 0
            )
        )
        try:
            self._device.ioctl(SNP_GET_EXT_REPORT, argument)
        except OSError:
            _check_table_size(request.raw, size_bytes)
            raise
        return _report(response.raw), certificates.raw if any(certificates.raw) else b""

    def refused(self, exc: OSError) -> AttestationFailed:
        if exc.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            return AttestationFailed(f"there is no '{DEVICE}'", hint=_NO_DEVICE_HINT)
        if exc.errno == errno.ENOTTY:
            # After some firmware failures the driver wipes its key: a message number must not be
            # used twice.
            return AttestationFailed("the driver's key is disabled", hint="only a reboot helps")
        return AttestationFailed(f"the secure processor gave no report: {named(exc)}")


def _check_table_size(request: bytes, given: int) -> None:
    """Raise _TableTooSmall if that is why the call failed: then the driver wrote a larger size."""
    wanted = int(_REQUEST.unpack(request)[3])
    if wanted <= given:
        return
    if wanted > CERTIFICATES_LIMIT_BYTES or wanted % _PAGE:
        raise AttestationFailed(f"the host wants {wanted} bytes of room for certificates")
    raise _TableTooSmall(wanted)


def _report(response: bytes) -> bytes:
    """The report out of the firmware's MSG_REPORT_RSP (SNP ABI, table 25)."""
    status, size = _RESPONSE.unpack_from(response)
    if status:
        raise AttestationFailed(f"the secure processor refused a report: status {status:#x}")
    if size != REPORT_SIZE:
        raise AttestationFailed(f"the secure processor's report has {size} bytes")
    return response[_RESPONSE.size : _RESPONSE.size + size]
