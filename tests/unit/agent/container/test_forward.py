"""A stream as a file that only goes forward."""

from __future__ import annotations

import io
import tarfile

import pytest

from sevfork.agent.container.forward import ForwardFile
from sevfork.errors import NotAuthentic

MIB = 1 << 20
DATA = bytes(range(256)) * (3 * MIB // 256) + b"end"


def test_a_place_further_on_is_gone_to_and_none_before() -> None:
    stream = ForwardFile(io.BytesIO(DATA))
    assert stream.read(10) == DATA[:10]
    stream.seek(2 * MIB + 5)
    assert stream.tell() == 2 * MIB + 5
    assert stream.read(7) == DATA[2 * MIB + 5 : 2 * MIB + 12]
    with pytest.raises(ValueError, match="does not go back"):
        stream.seek(0)


def test_the_end_is_where_it_is() -> None:
    stream = ForwardFile(io.BytesIO(DATA))
    stream.seek(len(DATA) + 100)
    assert stream.tell() == len(DATA)
    assert stream.read(1) == b""


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, len(DATA) - 3])
def test_pieces_are_a_mebibyte_and_the_rest(size: int) -> None:
    pieces = [bytes(piece) for piece in ForwardFile(io.BytesIO(DATA)).pieces(3, size)]
    assert b"".join(pieces) == DATA[3 : 3 + size]
    assert [len(piece) for piece in pieces[:-1]] == [MIB] * (len(pieces) - 1)


def test_a_stream_that_ends_within_a_member_is_refused() -> None:
    stream = ForwardFile(io.BytesIO(DATA))
    with pytest.raises(NotAuthentic, match="within a file"):
        list(stream.pieces(3, len(DATA)))


@pytest.mark.parametrize("size", [5, 2 * MIB])
def test_members_that_are_passed_over_do_not_hide_the_next(size: int) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("one", "two", "three"):
            member = tarfile.TarInfo(name)
            member.size = size
            archive.addfile(member, io.BytesIO(name.encode().ljust(size, b"\0")))
    stream = ForwardFile(io.BytesIO(made.getvalue()))
    with stream.archive() as archive:
        contents = {
            member.name: stream.content(member) for member in archive if member.name != "two"
        }
    assert contents == {name: name.encode().ljust(size, b"\0") for name in ("one", "three")}
