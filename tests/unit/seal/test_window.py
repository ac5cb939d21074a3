"""Several images in one volume: each is read and written as if it were alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sevfork.errors import HostCannot, NotAuthentic
from sevfork.seal import (
    HEADER_SIZE,
    NO_BASE,
    BlockDevice,
    ChunkDevice,
    SealedImage,
    SealReader,
    SealWriter,
    Window,
    image_size_for,
)
from sevfork.seal.chunk import private_buffer
from tests.support.memory_device import KEY, VM_ID, MemoryDevice

MIB = 1 << 20
STATES = (b"base" * 400_000, b"first delta" * 90_000, b"")


def write(device: ChunkDevice, start: int, data: bytes, base: bytes = NO_BASE) -> SealedImage:
    window = Window(device, start)
    with SealWriter(window, image_key=KEY, vm_id=VM_ID, generation=1, base_digest=base) as writer:
        writer.write(data)
        return writer.finish()


def read(device: ChunkDevice, start: int, image: SealedImage, base: bytes = NO_BASE) -> bytes:
    with SealReader(
        Window(device, start),
        image_key=KEY,
        header_digest=image.header_digest,
        chunk_count=image.chunk_count,
        base_digest=base,
    ) as reader:
        return reader.read()


def chain(device: ChunkDevice, states: tuple[bytes, ...]) -> list[tuple[int, SealedImage, bytes]]:
    """Layers one behind the other, each on the one before it: (start, image, its base)."""
    layers, start, base = [], 0, NO_BASE
    for state in states:
        image = write(device, start, state, base)
        layers.append((start, image, base))
        start, base = start + image_size_for(len(state)), image.header_digest
    return layers


def room_for(states: tuple[bytes, ...]) -> int:
    return sum(image_size_for(len(state)) for state in states)


def test_every_layer_of_a_volume_comes_back() -> None:
    device = MemoryDevice(room_for(STATES))
    layers = chain(device, STATES)
    assert tuple(read(device, *layer) for layer in layers) == STATES


def test_layers_come_back_from_a_block_device(tmp_path: Path) -> None:
    """The buffers and offsets of a layer in the middle suit direct I/O."""
    (path := tmp_path / "volume").touch()
    os.truncate(path, room_for(STATES))
    with BlockDevice(path, writable=True) as device:
        layers = chain(device, STATES)
    with BlockDevice(path) as device:
        assert tuple(read(device, *layer) for layer in layers) == STATES


def test_writing_a_layer_leaves_those_before_it_as_they_are() -> None:
    device = MemoryDevice(room_for(STATES))
    image = write(device, 0, STATES[0])
    before = bytes(device.data[: image_size_for(len(STATES[0]))])
    write(device, len(before), STATES[1], image.header_digest)
    assert bytes(device.data[: len(before)]) == before


def test_reading_a_layer_reads_nothing_of_the_others() -> None:
    device = MemoryDevice(room_for(STATES))
    start, image, base = chain(device, STATES)[1]
    device.reads.clear()
    read(device, start, image, base)
    end = start + image_size_for(len(STATES[1]))
    assert min(device.reads) == start
    assert max(device.reads) == end - MIB


def test_a_layer_read_at_anothers_place_is_rejected() -> None:
    device = MemoryDevice(room_for(STATES))
    layers = chain(device, STATES)
    for start, _, _ in layers[1:]:
        with pytest.raises(NotAuthentic, match="not the one that the manifest names|cut short"):
            read(device, start, layers[0][1])


def test_an_old_delta_in_the_place_of_a_new_one_is_rejected() -> None:
    """The host puts back what lay there before: the manifest names the new one's header."""
    device = MemoryDevice(2 * image_size_for(MIB))
    base = write(device, 0, b"base")
    start = image_size_for(4)
    write(device, start, b"old", base.header_digest)
    old = bytes(device.data[start:])
    new = write(device, start, b"new", base.header_digest)
    device.data[start:] = old
    with pytest.raises(NotAuthentic, match="not the one that the manifest names"):
        read(device, start, new, base.header_digest)


def test_a_layer_of_another_chain_is_rejected() -> None:
    """One that is genuine, and sealed under the same key, but a delta on another base."""
    device = MemoryDevice(room_for(STATES))
    _, (start, image, _), _ = chain(device, STATES)
    other = write(MemoryDevice(room_for(STATES)), 0, STATES[0])
    with pytest.raises(NotAuthentic, match="another base"):
        read(device, start, image, other.header_digest)


@pytest.mark.parametrize("start", [MIB * 4, 2**62])
def test_a_layer_behind_the_end_of_the_volume_is_rejected_before_anything_is_read(
    start: int,
) -> None:
    device = MemoryDevice(room_for(STATES))
    image = write(device, 0, b"x")
    device.reads.clear()
    with pytest.raises(NotAuthentic, match="cut short"):
        read(device, start, image)
    assert device.reads == []


def test_a_layer_that_ends_behind_the_volume_is_not_written() -> None:
    device = MemoryDevice(HEADER_SIZE + 2 * MIB)
    with pytest.raises(HostCannot, match="too small"):
        write(device, HEADER_SIZE + MIB, b"x")
    assert device.writes == []


def test_a_window_of_a_window_adds_up_and_flushes_the_device() -> None:
    device = MemoryDevice(4 * MIB)
    window = Window(Window(device, MIB), 4096)
    assert window.size_bytes == 3 * MIB - 4096
    (page := private_buffer(4096))[:] = b"p" * 4096
    window.write_from(4096, page)
    window.flush()
    assert device.writes == [(MIB + 8192, b"p" * 4096)]
    assert device.flushes == 1


@pytest.mark.parametrize("start", [-4096, -1, 1, 512, 4095, 4097])
def test_a_window_starts_at_a_page(start: int) -> None:
    with pytest.raises(ValueError, match="multiple of 4096"):
        Window(MemoryDevice(MIB), start)


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 3 * MIB), min_size=1, max_size=4))
def test_any_layers_fit_one_behind_the_other(sizes: list[int]) -> None:
    states = tuple(bytes([index + 1]) * size for index, size in enumerate(sizes))
    device = MemoryDevice(room_for(states))
    layers = chain(device, states)
    assert tuple(read(device, *layer) for layer in reversed(layers)) == tuple(reversed(states))
