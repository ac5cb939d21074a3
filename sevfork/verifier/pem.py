"""The PEM blocks of a file, in one pass: its time grows with the file and no faster."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sevfork.errors import AttestationFailed

_MARKER = re.compile(rb"-----(BEGIN|END) ([A-Z0-9 ]{1,40})-----")


@dataclass(frozen=True)
class PemBlock:
    """One block with its markers; ``label`` is what they name (``CERTIFICATE``)."""

    label: str
    content: bytes


def pem_blocks(content: bytes) -> list[PemBlock]:
    """All blocks, whatever stands between them; raise AttestationFailed if one does not end."""
    blocks: list[PemBlock] = []
    begin: re.Match[bytes] | None = None
    for marker in _MARKER.finditer(content):
        if marker[1] == b"BEGIN":
            if begin is not None:
                raise AttestationFailed("a PEM block in it does not end")
            begin = marker
        elif begin is not None and marker[2] == begin[2]:
            block = content[begin.start() : marker.end()] + b"\n"
            blocks.append(PemBlock(begin[2].decode("ascii"), block))
            begin = None
    if begin is not None:
        raise AttestationFailed("a PEM block in it does not end")
    return blocks
