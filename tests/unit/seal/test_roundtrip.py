"""What is sealed comes out again, whatever its length and however it is cut."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sevfork.errors import WrongState
from sevfork.seal import (
    CHUNK_SIZE,
    DATA_SIZE,
    HEADER_SIZE,
    SealWriter,
    chunk_count_for,
    image_size_for,
)
from tests.support.memory_device import MemoryDevice, Sealed, seal

MIB = 1 << 20
BOUNDARIES = sorted(
    {0, 1, 7, 8, MIB - 25, MIB - 24, MIB - 23, MIB - 20, MIB - 17, MIB - 16, MIB - 15, MIB, MIB + 1}
    | {2 * DATA_SIZE - 1, 2 * DATA_SIZE, 2 * DATA_SIZE + 1, 2 * (MIB - 16), 3 * MIB}
)


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@pytest.mark.parametrize("size", BOUNDARIES)
def test_data_of_every_boundary_length_comes_back(size: int) -> None:
    sealed = seal(pattern(size))
    assert sealed.image.chunk_count == chunk_count_for(size)
    with sealed.reader() as reader:
        assert reader.read() == sealed.data
        assert reader.read(1) == b""
        assert reader.complete


# A MiB among them, so that no example is three million calls of a byte each.
cuts = st.lists(st.integers(1, 2 * MIB), max_size=4).map(lambda sizes: [*sizes, MIB])


@given(size=st.integers(0, 3 * MIB), write=cuts, read=cuts, workers=st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_data_comes_back_however_it_is_cut(
    size: int, write: list[int], read: list[int], workers: int
) -> None:
    data = pattern(size)
    device = MemoryDevice(image_size_for(size))
    with SealWriter(
        device, image_key=bytes(32), vm_id=bytes(16), generation=0, workers=workers
    ) as writer:
        source = io.BytesIO(data)
        for part in iter(map(source.read, cycle(write)).__next__, b""):
            assert writer.write(part) == len(part)
        image = writer.finish()
    with Sealed(device, image, data, bytes(32)).reader(workers=workers) as reader:
        parts = list(iter(map(reader.read, cycle(read)).__next__, b""))
    assert b"".join(parts) == data
    assert all(len(part) == wanted for part, wanted in zip(parts[:-1], cycle(read), strict=False))


@pytest.mark.parametrize("size", [100, MIB // 2, 3 * MIB])
@pytest.mark.parametrize("view", [bytearray, lambda data: memoryview(data).toreadonly()])
def test_what_can_change_is_copied_before_write_returns(
    size: int, view: Callable[[bytearray], bytearray | memoryview]
) -> None:
    device, buffer = MemoryDevice(image_size_for(8 * MIB)), bytearray(size)
    with SealWriter(device, image_key=bytes(32), vm_id=bytes(16), generation=0) as writer:
        for value in (1, 2):
            buffer[:] = bytes([value]) * size
            writer.write(view(buffer))
        buffer[:] = bytes(size)
        image = writer.finish()
    data = b"\1" * size + b"\2" * size
    with Sealed(device, image, data, bytes(32)).reader() as reader:
        assert reader.read() == data


def test_what_was_sealed_is_not_held_any_longer() -> None:
    # Less than a chunk, which no thread seals before the end.
    device, data = MemoryDevice(image_size_for(MIB // 2)), bytes(MIB // 2)
    before = sys.getrefcount(data)
    with SealWriter(device, image_key=bytes(32), vm_id=bytes(16), generation=0) as writer:
        writer.write(data)
        assert sys.getrefcount(data) > before
        writer.finish()
        assert sys.getrefcount(data) == before


def test_an_empty_image_has_one_chunk() -> None:
    sealed = seal(b"")
    assert sealed.image.chunk_count == 1
    assert sealed.reader().read() == b""


def test_the_reader_feeds_copyfileobj(sealed: Sealed) -> None:
    sink = io.BytesIO()
    with sealed.reader() as reader:
        shutil.copyfileobj(reader, sink)
    assert sink.getvalue() == sealed.data


def test_readinto_fills_the_buffer_across_chunks(sealed: Sealed) -> None:
    buffer = bytearray(len(sealed.data) + 10)
    with sealed.reader() as reader:
        assert reader.readinto(buffer) == len(sealed.data)
        assert reader.readinto(buffer) == 0
    assert buffer[: len(sealed.data)] == sealed.data


def test_drain_verifies_what_was_not_read(sealed: Sealed) -> None:
    with sealed.reader() as reader:
        reader.read(1000)
        assert not reader.complete
        assert reader.drain() == len(sealed.data) - 1000
        assert reader.complete


def test_zero_bytes_are_read_without_reading_the_medium(sealed: Sealed) -> None:
    with sealed.reader() as reader:
        assert reader.read(0) == b""
        assert sealed.device.reads == [0]


def test_each_chunk_is_read_exactly_once(sealed: Sealed) -> None:
    with sealed.reader() as reader:
        reader.read()
    wanted = [0, *(HEADER_SIZE + index * CHUNK_SIZE for index in range(4))]
    assert sorted(sealed.device.reads) == wanted


def test_read_ahead_is_bounded() -> None:
    sealed = seal(bytes(12 * MIB))
    with sealed.reader(workers=2) as reader:
        reader.read(1)
    assert len(sealed.device.reads) - 1 <= 3  # two workers, and one that waits


def test_each_chunk_is_written_exactly_once_and_the_header_last(sealed: Sealed) -> None:
    offsets = [offset for offset, _ in sealed.device.writes]
    assert sorted(offsets) == [0, *(HEADER_SIZE + index * CHUNK_SIZE for index in range(4))]
    assert offsets[-1] == 0
    assert sealed.device.flushes == 1


def test_chunks_lie_page_aligned_and_full_on_the_medium(sealed: Sealed) -> None:
    for offset, data in sealed.device.writes:
        assert offset % 4096 == 0
        assert len(data) == (CHUNK_SIZE if offset else HEADER_SIZE)


def test_the_same_data_and_key_never_make_the_same_image() -> None:
    first, second = seal(b"state"), seal(b"state")
    assert first.image.image_id != second.image.image_id
    assert first.device.data[HEADER_SIZE:] != second.device.data[HEADER_SIZE:]


def test_a_delta_opens_with_the_digest_of_its_base() -> None:
    base = seal(b"base")
    delta = seal(b"delta", base_digest=base.image.header_digest)
    with delta.reader(base_digest=base.image.header_digest) as reader:
        assert reader.read() == b"delta"
        assert reader.header.base_digest == base.image.header_digest


def test_a_closed_reader_releases_nothing(sealed: Sealed) -> None:
    reader = sealed.reader()
    reader.read(10)
    reader.close()
    with pytest.raises(WrongState):
        reader.read(10)
