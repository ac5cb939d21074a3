"""What evidence a file holds. The file is the attacker's: what cannot be read is rejected."""

from __future__ import annotations

import re

from sevfork.attest.evidence import Evidence
from sevfork.attest.snp.report import REPORT_SIZE
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology

EVIDENCE_LIMIT_BYTES = 1 << 20
_TDX_HEAD = re.compile(rb"[\x04\x05]\x00\x02\x00\x81\x00\x00\x00", re.DOTALL)


def recognise(data: bytes) -> Evidence:
    """What evidence a file holds: sevfork's own, an SNP report or a TDX quote; raw or hexadecimal.

    An SNP report may have its certificate table behind it, as extended reports of other tools do.
    Raises AttestationFailed for anything else.
    """
    data = _unhex(data)
    if _TDX_HEAD.match(data):
        return Evidence(Technology.TDX, data, b"")
    if data[:1] == b"\1":
        return Evidence.decode(data)
    if len(data) >= REPORT_SIZE and data[0] in range(2, 6):
        return Evidence(Technology.SEV_SNP, data[:REPORT_SIZE], data[REPORT_SIZE:])
    raise AttestationFailed(
        f"{len(data)} bytes that are no evidence",
        hint="want an SNP report (1184 bytes), a TDX quote (v4, v5) or what 'sevfork attest' saved",
    )


def _unhex(data: bytes) -> bytes:
    text = b"".join(data.split()).removeprefix(b"0x")
    if len(text) % 2 == 0 and re.fullmatch(rb"[0-9A-Fa-f]+", text):
        return bytes.fromhex(text.decode("ascii"))
    return data
