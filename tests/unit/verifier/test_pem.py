"""PEM blocks are found in one pass, and a block that does not end is an error."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevfork.errors import AttestationFailed
from sevfork.verifier.certificate_files import decode_items
from sevfork.verifier.pem import pem_blocks

BLOCK = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"


def test_blocks_are_found_between_other_text() -> None:
    key = BLOCK.replace(b"CERTIFICATE", b"PUBLIC KEY")
    blocks = pem_blocks(b"before\n" + BLOCK + b"\nbetween" + key + b"after")
    assert [(block.label, block.content) for block in blocks] == [
        ("CERTIFICATE", BLOCK + b"\n"),
        ("PUBLIC KEY", key + b"\n"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        BLOCK[:-5],
        BLOCK + b"\n" + BLOCK[:40],
        BLOCK[:30] + BLOCK,
        BLOCK.replace(b"END CERTIFICATE", b"END X509 CRL"),
    ],
)
def test_a_block_that_does_not_end_is_an_error(content: bytes) -> None:
    with pytest.raises(AttestationFailed, match="does not end"):
        pem_blocks(content)


@given(st.lists(st.sampled_from([b"-----BEGIN A-----", b"-----END A-----", b"x\n", BLOCK])))
def test_whatever_stands_there_blocks_or_our_error_come_out(parts: list[bytes]) -> None:
    try:
        blocks = pem_blocks(b"".join(parts))
    except AttestationFailed:
        return
    assert all(block.content.startswith(b"-----BEGIN") for block in blocks)


@pytest.mark.parametrize(
    "piece",
    [b"-----BEGIN A-----", b"-----BEGIN A----- ", b"-----END A-----", b"-----BEGIN ", b"-" * 10],
)
def test_time_grows_with_the_file_and_no_faster(piece: bytes) -> None:
    """128 KiB of such took 6.5 s; this is 1 MiB, the most that is read of a file."""
    content = piece * ((1 << 20) // len(piece))
    begin = time.process_time()
    with contextlib.suppress(AttestationFailed):
        decode_items(content)
    assert time.process_time() - begin < 1.0
