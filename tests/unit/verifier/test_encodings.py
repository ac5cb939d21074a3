"""Bytes come back from every text that people keep them in."""

from __future__ import annotations

import base64
import string
import textwrap
import time
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sevfork.errors import AttestationFailed
from sevfork.verifier.encodings import octets

DATA = bytes(range(256)) * 2 + bytes(160) + b"\x07" * 5


def _text(line: bytes) -> str:
    return "".join(chr(b) if 32 <= b < 127 else "." for b in line)


def _lines(data: bytes) -> list[tuple[int, bytes]]:
    return [(at, data[at : at + 16]) for at in range(0, len(data), 16)]


def xxd(data: bytes) -> str:
    rows = ((f"{at:08x}: {line.hex(' ', -2):<39}", _text(line)) for at, line in _lines(data))
    return "\n".join(f"{row}  {text}" for row, text in rows) + "\n"


def hexdump(data: bytes) -> str:
    """As ``hexdump -C``: a line that is the same as the one before is left out, with one star."""
    rows: list[str] = []
    before = b""
    for at, line in _lines(data):
        if line == before and len(line) == 16:
            rows += ["*"] if rows[-1] != "*" else []
            continue
        before = line
        halves = f"{line[:8].hex(' '):<23}  {line[8:].hex(' '):<23}"
        rows.append(f"{at:08x}  {halves}  |{_text(line)}|")
    return "\n".join([*rows, f"{len(data):08x}"]) + "\n"


FORMS: dict[str, Callable[[bytes], str]] = {
    "hex": bytes.hex,
    "hex-upper-0x": lambda data: "0x" + data.hex().upper(),
    "hex-wrapped": lambda data: "\n".join(textwrap.wrap(data.hex(), 64)),
    "base64": lambda data: base64.b64encode(data).decode(),
    "base64-wrapped": lambda data: base64.encodebytes(data).decode(),
    "base64-crlf": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
    "base64url-unpadded": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "xxd": xxd,
    "hexdump": hexdump,
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read(form: str) -> None:
    assert octets(FORMS[form](DATA).encode()) == DATA


@given(st.binary(min_size=48, max_size=200), st.sampled_from(sorted(FORMS)))
def test_reading_undoes_writing(data: bytes, form: str) -> None:
    text = FORMS[form](data)
    assume("base64" not in form or set(text.strip()) - set(string.hexdigits))
    assert octets(text.encode()) == data


@given(st.binary(max_size=200))
def test_whatever_it_is_bytes_or_our_error_come_out(data: bytes) -> None:
    try:
        assert isinstance(octets(data), bytes)
    except AttestationFailed:
        return


def test_binary_data_stays_as_it_is() -> None:
    assert octets(DATA) == DATA


@pytest.mark.parametrize("form", ["xxd", "hexdump"])
def test_a_dump_with_a_gap_is_an_error(form: str) -> None:
    lines = FORMS[form](DATA).splitlines()
    with pytest.raises(AttestationFailed, match="gap or damage at byte 32"):
        octets("\n".join(lines[:2] + lines[3:]).encode())


def test_a_star_does_not_fill_the_memory() -> None:
    bomb = f"{0:08x}: {'00' * 2}  ..\n*\nffffffff: 0000  ..\n"
    with pytest.raises(AttestationFailed, match="gap"):
        octets(bomb.encode())


@pytest.mark.parametrize("line", [b"0000: " + b"a" * 60000 + b"!", b"0000  " + b"00 " * 20000])
def test_an_odd_line_takes_no_time(line: bytes) -> None:
    begin = time.process_time()
    octets(line + b"\n" + line)
    assert time.process_time() - begin < 1.0


def test_pem_without_padding_is_not_taken_for_url_safe_base64() -> None:
    """One chain in thirteen has none: its dashes, letters and digits are all of that alphabet."""
    block = f"-----BEGIN CERTIFICATE-----\n{'MIIB' * 40}\n-----END CERTIFICATE-----\n"
    assert octets(2 * block.encode()) == 2 * block.encode()
