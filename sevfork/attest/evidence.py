"""Evidence: a report (or quote), and what came with it to check it by, as one string of bytes.

Encoding: u8 version = 1 | u8 technology | 2 zero bytes | LP(report) | LP(certificates). The
certificates are an SNP certificate table, TDX collateral, or nothing. None of it is believed
before ``verify``.
"""

from __future__ import annotations

from msgspec import Struct

from sevfork.errors import AttestationFailed
from sevfork.technology import Technology
from sevfork.wire.lp import lp
from sevfork.wire.message import MAX_CERTIFICATES_BYTES

VERSION = 1
REPORT_LIMIT_BYTES = 16 * 1024
CERTIFICATES_LIMIT_BYTES = MAX_CERTIFICATES_BYTES
_HEAD_SIZE = 4
_BY_WIRE = {technology.wire: technology for technology in Technology}


class Evidence(Struct, frozen=True):
    """An unchecked report with the certificates that were handed over beside it."""

    technology: Technology
    report: bytes
    certificates: bytes

    def __post_init__(self) -> None:
        _within("report", self.report, REPORT_LIMIT_BYTES)
        _within("certificates", self.certificates, CERTIFICATES_LIMIT_BYTES)

    def encode(self) -> bytes:
        head = bytes([VERSION, self.technology.wire, 0, 0])
        return head + lp(self.report, self.certificates)

    @classmethod
    def decode(cls, data: bytes) -> Evidence:
        """Raise AttestationFailed unless data is exactly one encoded Evidence."""
        if len(data) < _HEAD_SIZE or data[0] != VERSION or data[2:4] != b"\0\0":
            raise AttestationFailed("evidence: wrong length, version or reserved bytes")
        technology = _BY_WIRE.get(data[1])
        if technology is None:
            raise AttestationFailed(f"evidence: unknown technology {data[1]}")
        report, rest = _take("report", data[_HEAD_SIZE:])
        certificates, rest = _take("certificates", rest)
        if rest:
            raise AttestationFailed(f"evidence: {len(rest)} bytes trail")
        return cls(technology, report, certificates)


def _take(what: str, data: bytes) -> tuple[bytes, bytes]:
    size = int.from_bytes(data[:4], "big")
    if len(data) < 4 or len(data) - 4 < size:
        raise AttestationFailed(f"evidence: the {what} is cut short")
    return data[4 : 4 + size], data[4 + size :]


def _within(what: str, data: bytes, limit_bytes: int) -> None:
    if len(data) > limit_bytes:
        raise AttestationFailed(f"evidence: the {what} has {len(data)} bytes, limit {limit_bytes}")
