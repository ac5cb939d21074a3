"""What names a machine is taken out of a report: chip ids, PPIDs, its host name.

A chip id and a PPID stand for one processor for good. Evidence loses them, and with them what would
give them back: its certificates, and the signature, which is over them.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Any

from sevfork.attest.evidence import Evidence
from sevfork.attest.snp.report import CHIP_ID_SIZE, TURIN_CHIP_ID_SIZE, SnpReport
from sevfork.attest.tdx.examination import Subject
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology

_CHIP_ID_AT = 0x1A0
# The quote's user data begins with the quoting enclave's id, which is the platform's own.
_TDX_USER_DATA = slice(28, 48)
_MASK = "<masked>"
# Whatever has a chip id's length, in case the evidence itself could not be read.
_CHIP_ID = rf"\b[0-9a-f]{{{2 * CHIP_ID_SIZE}}}\b"


def identifiers(evidence: Evidence) -> tuple[str, ...]:
    """What names the machine, in hexadecimal; AttestationFailed for what is no evidence."""
    if evidence.technology is Technology.TDX:
        subject = Subject.decode(evidence.report)
        named = (subject.platform.ppid, evidence.report[_TDX_USER_DATA])
    else:
        chip_id = SnpReport.decode(evidence.report).chip_id
        named = (chip_id, chip_id[:TURIN_CHIP_ID_SIZE])
    return tuple(each.hex() for each in named if any(each))


def masked_evidence(evidence: Evidence) -> dict[str, str]:
    """The signed part of the report or quote without them; without signature and certificates.

    Raises AttestationFailed for what is neither.
    """
    if evidence.technology is Technology.TDX:
        signed = bytearray(Subject.decode(evidence.report).quote.signed)
        signed[_TDX_USER_DATA] = bytes(20)
    else:
        signed = bytearray(SnpReport.decode(evidence.report).signed_bytes)
        signed[_CHIP_ID_AT : _CHIP_ID_AT + CHIP_ID_SIZE] = bytes(CHIP_ID_SIZE)
    text = base64.b64encode(signed).decode()
    return {"technology": evidence.technology.value, "signed_part_masked": text}


def read(data: bytes) -> Evidence | None:
    """What ``sevfork attest --save`` wrote; None for what it could not have written."""
    try:
        evidence = Evidence.decode(data)
        masked_evidence(evidence)
    except AttestationFailed:
        return None
    return evidence


def masked(document: Any, host_name: str, hexadecimal: Iterable[str]) -> Any:
    """The document without them, and without what looks like a chip id, in all of its texts.

    A host is called as words are ("vm"), so its name counts only where it stands alone.
    """
    alone = rf"(?<![\w-]){re.escape(host_name)}(?![\w-])"
    words = [_CHIP_ID, *map(re.escape, hexadecimal), *([alone] if host_name else [])]
    return _without(document, re.compile("|".join(words), re.IGNORECASE))


def _without(value: Any, pattern: re.Pattern[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(each, pattern) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without(each, pattern) for each in value]
    return pattern.sub(_MASK, value) if isinstance(value, str) else value
