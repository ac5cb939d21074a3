"""An SNP report that a tool took apart into JSON fields (AMD's ``sev`` crate), put together again.

The signature covers every byte: a field that is put back wrongly can only end in a bad signature.
Offsets: AMD 56860, ATTESTATION_REPORT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sevfork.attest.snp.report import REPORT_SIZE
from sevfork.errors import AttestationFailed

Fields = Mapping[str, Any]
_NUMBERS = {
    "version": (0x00, 4),
    "guest_svn": (0x04, 4),
    "policy": (0x08, 8),
    "vmpl": (0x30, 4),
    "sig_algo": (0x34, 4),
    "plat_info": (0x40, 8),
    "key_info": (0x48, 4),
}
# Absent, or null, in reports of a version that has no such field.
_LATER_NUMBERS = {
    "cpuid_fam_id": (0x188, 1),
    "cpuid_mod_id": (0x189, 1),
    "cpuid_step": (0x18A, 1),
    "launch_mit_vector": (0x1F8, 8),
    "current_mit_vector": (0x200, 8),
}
_OCTETS = {
    "family_id": (0x10, 16),
    "image_id": (0x20, 16),
    "report_data": (0x50, 64),
    "measurement": (0x90, 48),
    "host_data": (0xC0, 32),
    "id_key_digest": (0xE0, 48),
    "author_key_digest": (0x110, 48),
    "report_id": (0x140, 32),
    "report_id_ma": (0x160, 32),
    "chip_id": (0x1A0, 64),
}
_TCBS = {"current_tcb": 0x38, "reported_tcb": 0x180, "committed_tcb": 0x1E0, "launch_tcb": 0x1F0}
_FIRMWARE = {"current": 0x1E8, "committed": 0x1EC}
_SIGNATURE = {"r": 0x2A0, "s": 0x2E8}


def looks_like_fields(value: object) -> bool:
    return isinstance(value, Mapping) and {"chip_id", "signature", "policy"} <= value.keys()


def report_from_fields(fields: Fields) -> bytes:
    """1184 bytes; raise AttestationFailed if a field is absent or not of its kind."""
    report = bytearray(REPORT_SIZE)
    try:
        for offset, value in _pieces(fields):
            report[offset : offset + len(value)] = value
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as exc:
        raise AttestationFailed("the fields of the SNP report are not whole") from exc
    return bytes(report)


def _pieces(fields: Fields) -> list[tuple[int, bytes]]:
    later = {name: at for name, at in _LATER_NUMBERS.items() if fields.get(name) is not None}
    numbers = _NUMBERS | later
    return [
        *((at, int(fields[name]).to_bytes(size, "little")) for name, (at, size) in numbers.items()),
        *((at, _exactly(fields[name], size)) for name, (at, size) in _OCTETS.items()),
        *((at, _tcb(fields[name])) for name, at in _TCBS.items()),
        *((at, _firmware(fields[name])) for name, at in _FIRMWARE.items()),
        *((at, _exactly(fields["signature"][name], 72)) for name, at in _SIGNATURE.items()),
    ]


def _exactly(value: list[int], size: int) -> bytes:
    data = bytes(value)
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes, not {size}")
    return data


def _tcb(tcb: Fields) -> bytes:
    fmc, bootloader, tee, snp, microcode = (
        tcb.get(name) for name in ("fmc", "bootloader", "tee", "snp", "microcode")
    )
    if fmc is None:
        return bytes([bootloader, tee, 0, 0, 0, 0, snp, microcode])  # type: ignore[list-item]
    return bytes([fmc, bootloader, tee, snp, 0, 0, 0, microcode])  # type: ignore[list-item]


def _firmware(version: Fields) -> bytes:
    return bytes([version["build"], version["minor"], version["major"]])
