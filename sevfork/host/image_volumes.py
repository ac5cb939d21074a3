"""Guest images in the storage pool: uploaded once by content, deleted when no VM boots them.

An upload grows its volume from nothing, so a volume is complete exactly when it has the whole
file's size: one that was cut short by a crash is seen, and made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sevfork.deadline import Deadline
from sevfork.domain.disks import volume_paths
from sevfork.domain.spec import Boot
from sevfork.errors import NotAuthentic, WrongState
from sevfork.host.hypervisor import Hypervisor, Storage, VolumeExists
from sevfork.image.image import Image, ImageFile
from sevfork.image.paths import cache_directory

# Another command's upload that does not grow for so long has died.
STALLED_S = 5.0
POLL_S = 0.5
_PREFIX = "image-"
_PIECE = 256 * 1024

OnBytes = Callable[[int, int], None]


def boot_paths(storage: Storage, image: Image) -> Boot:
    """Where the image's files are, or will be, on the libvirt host."""
    kernel, initrd, root = (storage.path_of(each.volume_name) for each in image.files)
    return Boot(kernel, initrd, root, image.cmdline)


def sha384(storage: Storage, path: str) -> bytes:
    """SHA-384 of a volume in the pool, wherever the pool is. Raises WrongState."""
    volume = storage.find(PurePosixPath(path).name)
    if volume is None or volume.path != path:
        raise WrongState(f"'{path}' is not a volume of the storage pool 'sevfork'")
    digest = hashlib.sha384()
    for piece in storage.download(volume.name, volume.size_bytes):
        digest.update(piece)
    return digest.digest()


def ensure(storage: Storage, image: Image, on_bytes: OnBytes) -> None:
    """Upload what is not there; ``on_bytes`` hears of the bytes done and in total.

    Raises NotAuthentic when a file is not what the image's manifest says.
    """
    sizes = {volume.name: volume.size_bytes for volume in storage.volumes()}
    missing = [each for each in image.files if sizes.get(each.volume_name) != each.size_bytes]
    total, done = sum(each.size_bytes for each in missing), 0
    for file in missing:
        _ensure_file(storage, file, functools.partial(_report, on_bytes, done, total))
        done += file.size_bytes


def _report(on_bytes: OnBytes, before: int, total: int, written: int) -> None:
    on_bytes(before + written, total)


def _ensure_file(storage: Storage, file: ImageFile, on_bytes: Callable[[int], None]) -> None:
    while True:
        try:
            storage.create(file.volume_name, 0)
        except VolumeExists:
            if _completed_by_another(storage, file):
                return
            storage.delete(file.volume_name)
        else:
            _upload(storage, file, on_bytes)
            return


def _upload(storage: Storage, file: ImageFile, on_bytes: Callable[[int], None]) -> None:
    digest = hashlib.sha384()
    try:
        with file.path.open("rb") as source:
            pieces = _hashed(source, digest.update)
            for written in storage.upload(file.volume_name, pieces, file.size_bytes):
                on_bytes(written)
        if digest.hexdigest() != file.sha384:
            raise NotAuthentic(
                f"'{file.path}' is not the file that the image's manifest speaks of",
                hint="build the image again with 'sevfork guest build'",
            )
    except BaseException:
        storage.delete(file.volume_name)
        raise


def _hashed(source: BinaryIO, update: Callable[[bytes], None]) -> Iterator[bytes]:
    while piece := source.read(_PIECE):
        update(piece)
        yield piece


def _completed_by_another(storage: Storage, file: ImageFile) -> bool:
    """Wait while the volume grows; True when it is whole, False when its maker has gone."""
    size, deadline = -1, Deadline.after(STALLED_S)
    while not deadline.passed:
        found = storage.find(file.volume_name)
        if found is None:
            return False
        if found.size_bytes == file.size_bytes:
            return True
        if found.size_bytes != size:
            size, deadline = found.size_bytes, Deadline.after(STALLED_S)
        time.sleep(POLL_S)
    return False


def delete_unused(hypervisor: Hypervisor) -> None:
    """Delete the images that no domain boots, unless another command is about to use one."""
    with _lock(exclusive=True) as free:
        if not free:
            return
        used = paths_in_use(hypervisor)
        for volume in hypervisor.storage.volumes():
            if volume.name.startswith(_PREFIX) and volume.path not in used:
                hypervisor.storage.delete(volume.name)


def paths_in_use(hypervisor: Hypervisor) -> frozenset[str]:
    """Every file that any domain uses."""
    used: set[str] = set()
    for domain in hypervisor.domains():
        with contextlib.suppress(WrongState):  # it went away meanwhile
            used |= volume_paths(hypervisor.xml(domain.uuid))
    return frozenset(used)


@contextlib.contextmanager
def in_use() -> Iterator[None]:
    """While an image has been found in the pool and no domain names it yet."""
    with _lock(exclusive=False):
        yield


@contextlib.contextmanager
def _lock(*, exclusive: bool) -> Iterator[bool]:
    path: Path = cache_directory(os.environ) / "images.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
        except BlockingIOError:
            yield False
        else:
            yield True
