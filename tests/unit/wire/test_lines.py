"""The line protocol finds the next frame after anything a host may send."""

from hypothesis import given
from hypothesis import strategies as st

from sevfork.wire.lines import MAX_LINE_SIZE, Frame, Kind, LineDecoder

FRAME = Frame(Kind.REQUEST, b"12345678", b"payload")


def chunks_of(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@given(st.binary(max_size=200), st.integers(1, 50))
def test_a_frame_comes_back_whatever_precedes_it_and_however_it_is_split(
    garbage: bytes, size: int
) -> None:
    decoder = LineDecoder()
    frames = [
        frame
        for chunk in chunks_of(garbage + FRAME.encode_line(), size)
        for frame in decoder.feed(chunk)
    ]
    assert frames[-1:] == [FRAME]


@given(st.binary(max_size=400))
def test_garbage_never_raises(data: bytes) -> None:
    LineDecoder().feed(data)


def test_a_frame_cut_short_by_a_host_that_died_does_not_eat_the_next() -> None:
    decoder = LineDecoder()
    line = FRAME.encode_line()
    assert decoder.feed(line[: len(line) // 2]) == []
    assert decoder.feed(line) == [FRAME]
    assert decoder.dropped == 1


def test_an_endless_line_is_dropped_in_bounded_memory() -> None:
    decoder = LineDecoder()
    for _ in range(5):
        assert decoder.feed(b"A" * (MAX_LINE_SIZE // 2)) == []
    assert decoder.kept_bytes <= MAX_LINE_SIZE
    assert decoder.feed(FRAME.encode_line()) == [FRAME]


def test_a_frame_of_another_version_is_dropped() -> None:
    import base64

    line = base64.b64encode(b"\x02" + bytes(20)) + b"\n"
    decoder = LineDecoder()
    assert decoder.feed(line) == []
    assert decoder.dropped == 1
