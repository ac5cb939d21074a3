"""Each test is something that whoever owns the medium may try."""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from sevfork.errors import HostCannot, NotAuthentic, WrongState
from sevfork.seal import CHUNK_SIZE, DATA_SIZE, HEADER_SIZE, Header, SealWriter, pipeline
from sevfork.seal.chunk import PLAINTEXT_SIZE, Chunk, chunk_nonce
from sevfork.seal.header import header_digest
from tests.support.memory_device import MemoryDevice, Sealed, seal


def flip(device: MemoryDevice, offset: int) -> None:
    device.data[offset] ^= 1


def place(index: int) -> slice:
    start = HEADER_SIZE + index * CHUNK_SIZE
    return slice(start, start + CHUNK_SIZE)


def released(sealed: Sealed, **changes: Any) -> bytes:
    """Everything that comes out before an error, which has to be NotAuthentic."""
    parts: list[bytes] = []
    reader = sealed.reader(**changes)
    with pytest.raises(NotAuthentic):
        parts.extend(iter(lambda: reader.read(DATA_SIZE // 8), b""))
    assert not reader.complete
    return b"".join(parts)


@pytest.mark.parametrize("offset", [0, 9, 11, 12, 16, 40, 60, 100, 140, 167, 168, 4095])
def test_flipped_byte_in_the_header_is_rejected(sealed: Sealed, offset: int) -> None:
    flip(sealed.device, offset)
    with pytest.raises(NotAuthentic, match="not the one that the manifest names"):
        sealed.reader()


@pytest.mark.parametrize("index", [0, 1, 2, 3], ids=["first", "second", "third", "last"])
@pytest.mark.parametrize("within", [0, 1 << 19, CHUNK_SIZE - 1], ids=["data", "middle", "tag"])
def test_flipped_byte_in_a_chunk_releases_only_what_is_before_it(
    sealed: Sealed, index: int, within: Any
) -> None:
    flip(sealed.device, HEADER_SIZE + index * CHUNK_SIZE + within)
    assert released(sealed) == sealed.data[: index * DATA_SIZE]


def test_after_a_changed_chunk_nothing_is_released_any_more(sealed: Sealed) -> None:
    flip(sealed.device, HEADER_SIZE + CHUNK_SIZE)
    reader = sealed.reader()
    with pytest.raises(NotAuthentic, match="chunk 1"):
        reader.read()
    flip(sealed.device, HEADER_SIZE + CHUNK_SIZE)
    with pytest.raises(WrongState):
        reader.read(1)


@pytest.mark.parametrize("size", [0, 100, HEADER_SIZE, HEADER_SIZE + CHUNK_SIZE])
def test_truncated_volume_is_rejected_before_anything_is_read(sealed: Sealed, size: int) -> None:
    del sealed.device.data[size:]
    with pytest.raises(NotAuthentic, match="cut short"):
        sealed.reader()
    assert sealed.device.reads == []


def test_truncated_last_chunk_is_rejected(sealed: Sealed) -> None:
    del sealed.device.data[place(3).stop - 4096 :]
    with pytest.raises(NotAuthentic, match="cut short"):
        sealed.reader()


def test_volume_that_shrinks_while_it_is_read_is_rejected(sealed: Sealed) -> None:
    reader = sealed.reader(workers=1)
    del sealed.device.data[place(2).start + 4096 :]
    with pytest.raises(NotAuthentic, match="cut short"):
        reader.read()


def test_swapped_chunks_are_rejected(sealed: Sealed) -> None:
    data = sealed.device.data
    data[place(0)], data[place(1)] = data[place(1)], data[place(0)]
    assert released(sealed) == b""


def test_repeated_chunk_is_rejected(sealed: Sealed) -> None:
    sealed.device.data[place(1)] = sealed.device.data[place(0)]
    assert released(sealed) == sealed.data[:DATA_SIZE]


def test_chunk_of_another_image_under_the_same_key_is_rejected(sealed: Sealed) -> None:
    other = seal(sealed.data)
    sealed.device.data[place(1)] = other.device.data[place(1)]
    assert released(sealed) == sealed.data[:DATA_SIZE]


def test_whole_other_image_under_the_same_key_is_rejected(sealed: Sealed) -> None:
    other = seal(sealed.data)
    sealed.device.data[: len(other.device.data)] = other.device.data
    with pytest.raises(NotAuthentic, match="header"):
        sealed.reader()


def test_header_of_another_image_over_these_chunks_is_rejected(sealed: Sealed) -> None:
    other = seal(sealed.data)
    sealed.device.data[:HEADER_SIZE] = other.device.data[:HEADER_SIZE]
    assert released(sealed, header_digest=other.image.header_digest) == b""


@pytest.mark.parametrize("base", [b"b" * 48, b""])
def test_delta_on_another_base_is_rejected(base: Any) -> None:
    delta = seal(b"delta", base_digest=b"B" * 48)
    with pytest.raises(NotAuthentic, match="another base"):
        delta.reader(base_digest=base)


def test_delta_in_place_of_a_base_is_rejected() -> None:
    with pytest.raises(NotAuthentic, match="another base"):
        seal(b"delta", base_digest=b"B" * 48).reader()


def test_count_that_is_one_too_small_is_rejected(sealed: Sealed) -> None:
    """No final chunk where the count puts it: the image was cut at a chunk's boundary."""
    assert released(sealed, chunk_count=3) == sealed.data[: 2 * DATA_SIZE]


def test_count_that_is_one_too_large_is_rejected(sealed: Sealed) -> None:
    """The final flag is in the middle, and a chunk of zeros trails."""
    assert released(sealed, chunk_count=5) == sealed.data[: 3 * DATA_SIZE]


@pytest.mark.parametrize("count", [-1, 0, 2**24 + 1, 2**64])
def test_impossible_count_is_rejected(sealed: Sealed, count: int) -> None:
    with pytest.raises(NotAuthentic, match="no image of"):
        sealed.reader(chunk_count=count)


def test_last_chunk_moved_to_the_front_is_rejected(sealed: Sealed) -> None:
    sealed.device.data[place(0)] = sealed.device.data[place(3)]
    assert released(sealed, chunk_count=1) == b""


def test_trailing_chunk_is_never_read(sealed: Sealed) -> None:
    sealed.device.data[place(4)] = sealed.device.data[place(3)]
    with sealed.reader() as reader:
        assert reader.read() == sealed.data
    assert place(4).start not in sealed.device.reads


@pytest.mark.parametrize("key", [bytes(32), bytes(31) + b"\x01"])
def test_key_commitment_mismatch_is_rejected_before_any_chunk_is_read(
    sealed: Sealed, key: bytes
) -> None:
    with pytest.raises(NotAuthentic, match="not the one that sealed it"):
        sealed.reader(image_key=key)
    assert sealed.device.reads == [0]


def renamed(sealed: Sealed, change: Any) -> dict[str, bytes]:
    """Put a changed header on the medium, and name it as an authentic manifest would."""
    encoded = change(bytes(sealed.device.data[:HEADER_SIZE]))
    sealed.device.data[:HEADER_SIZE] = encoded
    return {"header_digest": hashlib.sha384(encoded).digest()}


@pytest.mark.parametrize("offset", [12, 15, 168, 1000, 4095])
def test_reserved_header_bytes_that_are_not_zero_are_rejected(sealed: Sealed, offset: int) -> None:
    named = renamed(sealed, lambda head: head[:offset] + b"\x01" + head[offset + 1 :])
    with pytest.raises(NotAuthentic, match="reserved"):
        sealed.reader(**named)


@pytest.mark.parametrize("offset", [9, 11], ids=["version", "suite"])
def test_unknown_version_or_suite_is_rejected(sealed: Sealed, offset: int) -> None:
    named = renamed(sealed, lambda head: head[:offset] + b"\x02" + head[offset + 1 :])
    with pytest.raises(NotAuthentic, match="unknown version"):
        sealed.reader(**named)


def flipped(sealed: Sealed, offset: int) -> dict[str, bytes]:
    return renamed(sealed, lambda h: h[:offset] + bytes([h[offset] ^ 1]) + h[offset + 1 :])


@pytest.mark.parametrize("offset", [16, 32, 55], ids=["image id", "vm id", "generation"])
def test_header_field_is_bound_to_every_chunk(sealed: Sealed, offset: int) -> None:
    """Even if a manifest named the changed header: the chunk key is another."""
    with pytest.raises(NotAuthentic, match="chunk 0"):
        sealed.reader(**flipped(sealed, offset)).read(1)


@pytest.mark.parametrize("offset", [104, 135, 136, 167], ids=["salt", "end", "commitment", "end."])
def test_salt_and_commitment_are_bound_to_the_key(sealed: Sealed, offset: int) -> None:
    named = flipped(sealed, offset)
    with pytest.raises(NotAuthentic, match="image key"):
        sealed.reader(**named)


@given(garbage=st.binary(max_size=200), whole=st.booleans())
def test_garbage_is_no_header(garbage: bytes, whole: bytes) -> None:
    data = garbage.ljust(HEADER_SIZE, b"\0") if whole else garbage
    with pytest.raises(NotAuthentic):
        Header.decode(data)


@given(
    fields=st.tuples(
        st.binary(min_size=16, max_size=16),
        st.binary(min_size=16, max_size=16),
        st.integers(0, 2**64 - 1),
        st.binary(min_size=48, max_size=48),
        st.binary(min_size=32, max_size=32),
        st.binary(min_size=32, max_size=32),
    )
)
def test_header_decodes_to_what_was_encoded(fields: Any) -> None:
    header = Header(*fields)
    assert Header.decode(header.encode()) == header
    assert len(header.encode()) == HEADER_SIZE
    assert header_digest(header.encode()) == hashlib.sha384(header.encode()).digest()


# Plaintexts that only a writer with the key, and with a bug, could have made.


def opened(plaintext: bytes, *, final: bool) -> Chunk:
    cipher = AESGCM(bytes(32))
    chunk = Chunk()
    chunk.sealed[:] = cipher.encrypt(chunk_nonce(5, final=final), plaintext, None)
    chunk.open(cipher, 5, final=final)
    return chunk


@pytest.mark.parametrize("count", [DATA_SIZE + 1, PLAINTEXT_SIZE, 2**64 - 1])
@pytest.mark.parametrize("final", [False, True])
def test_count_beyond_the_chunk_is_rejected(count: int, final: Any) -> None:
    with pytest.raises(NotAuthentic, match="wrong count"):
        opened(bytes(DATA_SIZE) + count.to_bytes(8, "big"), final=final)


@pytest.mark.parametrize("count", [0, 1, DATA_SIZE - 1])
def test_chunk_before_the_last_that_is_not_full_is_rejected(count: int) -> None:
    with pytest.raises(NotAuthentic, match="wrong count"):
        opened(bytes(DATA_SIZE) + count.to_bytes(8, "big"), final=False)


@pytest.mark.parametrize("position", [100, 5000, DATA_SIZE - 1])
def test_padding_that_is_not_zero_is_rejected(position: int) -> None:
    plaintext = bytearray(DATA_SIZE) + (100).to_bytes(8, "big")
    plaintext[position] = 1
    with pytest.raises(NotAuthentic, match="padding"):
        opened(bytes(plaintext), final=True)


# The writer.


def test_failed_write_is_repeated_with_the_identical_ciphertext() -> None:
    device = MemoryDevice(HEADER_SIZE + 2 * CHUNK_SIZE)
    device.fail_writes[HEADER_SIZE] = 2
    with SealWriter(device, image_key=bytes(32), vm_id=bytes(16), generation=0) as writer:
        writer.write(bytes(DATA_SIZE + 5))
        writer.finish()
    attempts = [data for offset, data in device.writes if offset == HEADER_SIZE]
    assert len(attempts) == 3
    assert len(set(attempts)) == 1


def test_write_that_keeps_failing_aborts_the_image_for_good() -> None:
    device = MemoryDevice(HEADER_SIZE + 9 * CHUNK_SIZE)
    device.fail_writes[HEADER_SIZE + CHUNK_SIZE] = 99
    writer = SealWriter(device, image_key=bytes(32), vm_id=bytes(16), generation=0)
    with pytest.raises(HostCannot, match="cannot be written"):
        writer.write(bytes(8 * DATA_SIZE))
    for attempt in (lambda: writer.write(b"x"), writer.finish):
        with pytest.raises(WrongState):
            attempt()
    assert device.data[:HEADER_SIZE] == bytes(HEADER_SIZE)
    assert device.flushes == 0


@pytest.mark.parametrize("call", ["write_from", "flush"])
def test_a_medium_that_hangs_ends_the_image_within_its_time(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "CHUNK_TIMEOUT_S", 0.1)
    monkeypatch.setattr(pipeline, "FLUSH_TIMEOUT_S", 0.1)
    device, released = MemoryDevice(HEADER_SIZE + 2 * CHUNK_SIZE), threading.Event()
    monkeypatch.setattr(device, call, lambda *_: released.wait(60))
    writer = SealWriter(device, image_key=bytes(32), vm_id=bytes(16), generation=0)
    try:
        with pytest.raises(HostCannot, match="does not answer"):
            writer.finish()
    finally:
        released.set()


def test_failed_flush_is_not_taken_for_success() -> None:
    device = MemoryDevice(HEADER_SIZE + CHUNK_SIZE)
    device.fail_flush = True
    writer = SealWriter(device, image_key=bytes(32), vm_id=bytes(16), generation=0)
    with pytest.raises(HostCannot, match="flushed"):
        writer.finish()
    with pytest.raises(WrongState):
        writer.finish()


def test_device_without_room_for_one_chunk_is_refused_at_once() -> None:
    with pytest.raises(HostCannot, match="too small"):
        SealWriter(
            MemoryDevice(HEADER_SIZE + CHUNK_SIZE - 1),
            image_key=bytes(32),
            vm_id=bytes(16),
            generation=0,
        )


def test_data_that_does_not_fit_is_refused_and_leaves_no_header() -> None:
    device = MemoryDevice(HEADER_SIZE + 2 * CHUNK_SIZE)
    with SealWriter(device, image_key=bytes(32), vm_id=bytes(16), generation=0) as writer:
        writer.write(bytes(2 * DATA_SIZE))
        with pytest.raises(HostCannot, match="too small") as caught:
            writer.write(bytes(1 + DATA_SIZE))
    assert "larger volume" in (caught.value.hint or "")
    assert device.data[:HEADER_SIZE] == bytes(HEADER_SIZE)


def test_data_that_fits_exactly_is_sealed() -> None:
    sealed = seal(bytes(2 * DATA_SIZE))
    assert sealed.device.size_bytes == HEADER_SIZE + 2 * CHUNK_SIZE


def test_a_finished_image_takes_no_more() -> None:
    device = MemoryDevice(HEADER_SIZE + CHUNK_SIZE)
    writer = SealWriter(device, image_key=bytes(32), vm_id=bytes(16), generation=0)
    writer.finish()
    with pytest.raises(WrongState, match="finished"):
        writer.write(b"x")
    assert not hasattr(writer, "seek")


def test_block_that_is_left_before_the_end_leaves_no_header() -> None:
    device = MemoryDevice(HEADER_SIZE + CHUNK_SIZE)
    with SealWriter(device, image_key=bytes(32), vm_id=bytes(16), generation=0) as writer:
        writer.write(b"x")
    with pytest.raises(WrongState):
        writer.finish()
    assert device.data[:HEADER_SIZE] == bytes(HEADER_SIZE)
