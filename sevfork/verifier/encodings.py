"""Binary data as people keep it in text: hexadecimal, base64, and the dumps of xxd and hexdump."""

from __future__ import annotations

import base64
import binascii
import re

from sevfork.errors import AttestationFailed

_HEX = re.compile(rb"(?:0[xX])?((?:[0-9A-Fa-f]{2})+)")
# Both alphabets, padded or not: Rust's and Go's tools write the URL-safe one without padding.
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{4,}={0,2}")
# PEM is of the URL-safe alphabet, where no certificate in it needs padding.
_PEM_BEGIN = b"-----BEGIN"
_OFFSET = re.compile(rb"[0-9A-Fa-f]{4,16}")
_MAX_REPEATED_BYTES = 1 << 20


def octets(content: bytes) -> bytes:
    """The bytes that a text stands for; the content itself if it is no such text.

    Raise AttestationFailed for a dump that has gaps.
    """
    lines = content.split(b"\n")
    if _is_dump(lines):
        return _from_dump(lines)
    text = b"".join(content.split())
    if hexadecimal := _HEX.fullmatch(text):
        return bytes.fromhex(hexadecimal[1].decode("ascii"))
    if len(text) >= 64 and not text.startswith(_PEM_BEGIN) and _BASE64.fullmatch(text):
        return _from_base64(text) or content
    return content


def from_text(text: str) -> bytes:
    """The same for a value of a JSON document, which may be as short as it likes."""
    return octets(text.encode())


def _from_base64(text: bytes) -> bytes | None:
    standard = text.translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(standard + b"=" * (-len(standard) % 4), validate=True)
    except binascii.Error:
        return None


def _is_dump(lines: list[bytes]) -> bool:
    first = _dump_line(lines[0].strip())
    return first is not None and bool(first[1])


def _from_dump(lines: list[bytes]) -> bytes:
    """Both tools write a ``*`` for lines that repeat the last one (xxd with -a)."""
    data, last, repeats = bytearray(), b"", False
    for line in filter(None, (line.strip() for line in lines)):
        if line == b"*":
            repeats = True
            continue
        offset, piece = _dump_line(line) or (-1, b"")
        missing = offset - len(data)
        if repeats and last and missing in range(0, _MAX_REPEATED_BYTES, len(last)):
            data += last * (missing // len(last))
        if offset != len(data):
            raise AttestationFailed(f"a dump with a gap or damage at byte {len(data)}")
        data += piece
        last, repeats = piece, False
    return bytes(data)


def _dump_line(line: bytes) -> tuple[int, bytes] | None:
    """Offset and bytes of one line. It is split and not matched: the line is the attacker's.

    xxd: ``00000010: 0011 2233  .."3``; hexdump -C: ``00000010  00 11 22 33  |.."3|``, and its last
    line is the size alone.
    """
    head, _, rest = line.partition(b" ")
    offset = head.removesuffix(b":")
    if not _OFFSET.fullmatch(offset):
        return None
    if head.endswith(b":"):
        digits = rest.split(b"  ")[0]
    elif rest.startswith(b" ") and b"|" in rest:
        digits = rest.split(b"|")[0]
    elif rest:
        return None
    else:
        digits = b""
    try:
        return int(offset, 16), bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return None
