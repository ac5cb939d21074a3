"""The storage pool, and what is written to its volumes and read from them."""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import libvirt

from sevfork.deadline import Deadline
from sevfork.domain.elements import E, parse, to_text
from sevfork.errors import HostCannot
from sevfork.host import hypervisor as hv
from sevfork.host.aside import within
from sevfork.host.libvirt.errors import (
    asking,
    asks,
    first_line,
    has_code,
    ignoring,
    is_full_or_broken,
)

POOL = "sevfork"
# A pool whose server has vanished holds libvirtd's worker for as long as it is gone (an NFS that is
# mounted hard, a FUSE), while libvirtd's main loop keeps the connection alive.
ANSWER_TIMEOUT_S = 20.0
# It is not asked again at once: what takes a fork back would wait as long each time.
_LEFT_ALONE_S = 60.0
_REFRESH_TIMEOUT_S = 15
_REFRESH_POLL_S = 0.05
_STREAM_PIECE = 256 * 1024
# libvirt's RPC takes up to 32 MiB; each costs a stream of its own, some milliseconds.
_UPLOAD_MESSAGE = 4 * 1024 * 1024

_Answer = TypeVar("_Answer")
_Method = TypeVar("_Method", bound=Callable[..., Any])


def answers(method: _Method) -> _Method:
    """Raise HostCannot where the pool does not answer in time."""

    @functools.wraps(method)
    def call(self: LibvirtStorage, *args: Any, **kwargs: Any) -> Any:
        return self.within(lambda: method(self, *args, **kwargs))

    return call  # type: ignore[return-value]  # the same signature, by construction


class LibvirtStorage:
    """``hypervisor.Storage`` on the pool "sevfork", which is made on first use.

    A pool of that name that an admin has defined (NFS, for instance) is used as it is.
    """

    def __init__(self, connection: Any, pool_path: str | None) -> None:
        self._connection = connection
        self._pool_path = pool_path
        self._left_alone_until = 0.0
        self._seen_at: str | None = None

    def within(self, call: Callable[[], _Answer]) -> _Answer:
        """What the call gives; HostCannot where the pool does not answer in time."""
        if time.monotonic() < self._left_alone_until:
            raise self._silent()
        try:
            return within(ANSWER_TIMEOUT_S, call, "storage-pool")
        except TimeoutError as exc:
            self._left_alone_until = time.monotonic() + _LEFT_ALONE_S
            raise self._silent() from exc

    def named(self) -> str:
        """Its place as it was seen last: asking may not end."""
        return f"the storage pool at '{self._seen_at}'" if self._seen_at else f"the pool '{POOL}'"

    def _silent(self) -> HostCannot:
        return HostCannot(
            f"{self.named()} does not answer",
            hint="look at its server, and try again: the VM runs on",
        )

    @asks
    @answers
    def volumes(self) -> tuple[hv.Volume, ...]:
        pool = self._existing_pool()
        if pool is None:
            return ()
        _refresh(pool)
        found = (_volume(each) for each in pool.listAllVolumes(0))
        return tuple(each for each in found if each is not None)

    @asks
    @answers
    def find(self, name: str) -> hv.Volume | None:
        return next((each for each in self.volumes() if each.name == name), None)

    @asks
    @answers
    def create(self, name: str, size_bytes: int) -> hv.Volume:
        xml = E.volume(
            E.name(name),
            E.capacity(str(size_bytes), unit="bytes"),
            E.allocation("0", unit="bytes"),
            E.target(E.format(type="raw")),
        )
        try:
            with self._naming_the_pool():
                made = self._pool().createXML(to_text(xml), 0)
        except libvirt.libvirtError as exc:
            if has_code(exc, libvirt.VIR_ERR_STORAGE_VOL_EXIST) or "already exists" in str(exc):
                raise hv.VolumeExists(f"the storage volume '{name}' exists") from exc
            raise
        return hv.Volume(name, made.path(), size_bytes)

    def upload(self, name: str, pieces: Iterable[bytes], size_bytes: int) -> Iterator[int]:
        """A stream a message: where several wait for a stream that fails (a full pool), libvirtd
        links one of them to itself and never returns, or dies (measured with 11.3). Whether a
        stream's last write failed libvirt does not tell (9.0, 11.3): the file's size does."""
        written = 0
        with asking("upload", name, size_bytes):
            for message in _joined(pieces, _UPLOAD_MESSAGE):
                self.within(functools.partial(self._write, name, written, message))
                written += len(message)
                yield written

    def download(self, name: str, size_bytes: int) -> Iterator[bytes]:
        with (
            asking("download", name, size_bytes),
            self._stream(name, "download", 0, size_bytes) as stream,
        ):
            while piece := self.within(functools.partial(_received, stream)):
                yield piece

    @asks
    @answers
    def delete(self, name: str) -> None:
        # A file that QEMU made (a serial log) is a volume only after a refresh.
        if self.find(name) is not None:
            with self._naming_the_pool(), ignoring(libvirt.VIR_ERR_NO_STORAGE_VOL):
                self._pool().storageVolLookupByName(name).delete(0)

    @asks
    @answers
    def path_of(self, name: str) -> str:
        pool = self._existing_pool()
        if pool is None:  # a dry run makes no pool
            self._seen_at = self._required_path()
        else:
            self._seen_at = str(parse(pool.XMLDesc(0)).findtext("target/path"))
        return f"{self._seen_at}/{name}"

    @asks
    @answers
    def free_bytes(self) -> int:
        pool = self._pool()
        _refresh(pool)
        return int(pool.info()[3])

    @contextlib.contextmanager
    def _stream(self, name: str, call: str, offset: int, size_bytes: int) -> Iterator[Any]:
        with self._naming_the_pool():
            volume = self._pool().storageVolLookupByName(name)
            stream = self._connection.newStream(0)
            try:
                getattr(volume, call)(stream, offset, size_bytes, 0)
                yield stream
                stream.finish()
            except BaseException:
                with contextlib.suppress(libvirt.libvirtError):  # broken is as good as aborted
                    stream.abort()
                raise

    def _write(self, name: str, offset: int, message: bytes) -> None:
        with self._stream(name, "upload", offset, len(message)) as stream:
            stream.send(message)
        size_bytes = offset + len(message)
        found = self._pool().storageVolLookupByName(name).info()[1]
        if found < size_bytes:
            raise self._full_or_broken(f"it took {found} bytes of '{name}', not {size_bytes}")

    @contextlib.contextmanager
    def _naming_the_pool(self) -> Iterator[None]:
        """Raise HostCannot, with the pool's name and place, where its file system has no room
        or fails."""
        try:
            yield
        except libvirt.libvirtError as exc:
            if not is_full_or_broken(exc):
                raise
            raise self._full_or_broken(first_line(exc)) from exc

    def _full_or_broken(self, why: str) -> HostCannot:
        return HostCannot(
            f"the storage pool at '{self.path_of('').rstrip('/')}': {why}",
            hint="look at its room, its health, its server, and try again",
        )

    def _pool(self) -> Any:
        return self._existing_pool() or self._make_pool()

    def _existing_pool(self) -> Any:
        """The pool, started; None if there is none."""
        try:
            pool = self._connection.storagePoolLookupByName(POOL)
        except libvirt.libvirtError as exc:
            if has_code(exc, libvirt.VIR_ERR_NO_STORAGE_POOL):
                return None
            raise
        if not pool.isActive():
            with ignoring(libvirt.VIR_ERR_OPERATION_INVALID):  # another command was faster
                pool.create(0)
        return pool

    def _required_path(self) -> str:
        if self._pool_path is None:
            raise HostCannot(
                f"the libvirt host has no storage pool '{POOL}'",
                hint="make one there: virsh pool-define-as sevfork dir --target DIRECTORY",
            )
        return self._pool_path

    def _make_pool(self) -> Any:
        xml = E.pool(E.name(POOL), E.target(E.path(self._required_path())), type="dir")
        try:
            pool = self._connection.storagePoolDefineXML(to_text(xml), 0)
            pool.build(0)
            pool.create(0)
            pool.setAutostart(1)
        except libvirt.libvirtError:
            # Two first commands at once: the other one has made it.
            pool = self._existing_pool()
            if pool is None or not pool.isActive():
                raise
        return pool


def _refresh(pool: Any) -> None:
    """Look at the pool's directory again; waits for another command that makes a volume."""
    busy = f"the storage pool '{POOL}' was busy for {_REFRESH_TIMEOUT_S} s"
    for _ in Deadline.after(_REFRESH_TIMEOUT_S).poll(_REFRESH_POLL_S, busy):
        try:
            pool.refresh(0)
            return
        except libvirt.libvirtError as exc:
            if "asynchronous jobs running" not in str(exc):
                raise


def default_pool_path(uri: str) -> str | None:
    """A sensible directory for the pool, None where only the libvirt host's admin knows one."""
    if re.search(r"/session(\?|$)", uri):
        return None
    return "/var/lib/libvirt/images/sevfork"


def _volume(volume: Any) -> hv.Volume | None:
    try:
        return hv.Volume(volume.name(), volume.path(), volume.info()[1])
    except libvirt.libvirtError as exc:
        if has_code(exc, libvirt.VIR_ERR_NO_STORAGE_VOL):
            return None
        raise


def _joined(pieces: Iterable[bytes], size_bytes: int) -> Iterator[bytes]:
    """The same bytes in pieces of at least that size, but for the last."""
    gathered = bytearray()
    for piece in pieces:
        gathered += piece
        if len(gathered) >= size_bytes:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


def _received(stream: Any) -> bytes:
    return bytes(stream.recv(_STREAM_PIECE))
