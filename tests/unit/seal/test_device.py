"""The medium: sizes, alignment, direct I/O."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from sevfork.errors import HostCannot, NotAuthentic, WrongState
from sevfork.seal import BlockDevice, SealReader, SealWriter, image_size_for
from sevfork.seal.chunk import private_buffer


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "volume.img"
    path.touch()
    os.truncate(path, image_size_for(3 << 20))
    return path


def test_an_image_on_a_file_comes_back(volume: Path) -> None:
    data = bytes(range(256)) * (3 << 12)
    with BlockDevice(volume, writable=True) as device:
        writer = SealWriter(device, image_key=bytes(32), vm_id=bytes(16), generation=0)
        writer.write(data)
        image = writer.finish()
    with BlockDevice(volume) as device:
        reader = SealReader(
            device,
            image_key=bytes(32),
            header_digest=image.header_digest,
            chunk_count=image.chunk_count,
        )
        assert reader.read() == data


def test_buffers_are_page_aligned_and_private() -> None:
    import ctypes

    buffer = private_buffer(4096)
    assert ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % 4096 == 0


def test_a_file_system_that_refuses_direct_io_gets_buffered_io(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_open = os.open

    def refuse(path: Path, flags: int, *rest: Any) -> Any:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return true_open(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    with BlockDevice(volume) as device:
        assert not device.direct
        device.read_into(0, private_buffer(4096))


def test_a_device_that_may_not_be_opened_is_not_opened_buffered_instead(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, flags: int, *rest: Any) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(HostCannot, match="Permission denied"):
        BlockDevice(volume)


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WrongState, match="no-such"):
        BlockDevice(tmp_path / "no-such")


def test_a_character_device_is_no_medium() -> None:
    with pytest.raises(WrongState, match="neither"):
        BlockDevice(Path("/dev/null"))


def test_a_directory_is_no_medium(tmp_path: Path) -> None:
    with pytest.raises((WrongState, HostCannot)):
        BlockDevice(tmp_path)


def test_reading_beyond_the_end_is_not_authentic(volume: Path) -> None:
    with BlockDevice(volume) as device, pytest.raises(NotAuthentic, match="cut short"):
        device.read_into(device.size_bytes - 4096, private_buffer(8192))


def test_writing_beyond_the_end_does_not_grow_a_file(volume: Path) -> None:
    with BlockDevice(volume, writable=True) as device:
        size = device.size_bytes
        with pytest.raises(HostCannot, match="too small"):
            device.write_from(size, private_buffer(4096))
    assert volume.stat().st_size == size


def test_a_device_opened_for_reading_cannot_be_written(volume: Path) -> None:
    with BlockDevice(volume) as device, pytest.raises(OSError, match="descriptor"):
        device.write_from(0, private_buffer(4096))


def test_closing_twice_does_not_close_somebody_elses_file(volume: Path) -> None:
    device = BlockDevice(volume)
    device.close()
    with volume.open("rb") as other:  # most likely gets the descriptor that was just closed
        device.close()
        assert os.fstat(other.fileno()).st_size
