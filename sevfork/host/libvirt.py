"""The only module that imports libvirt.

It implements ``hypervisor.Hypervisor`` and turns libvirt's error codes into sevfork's errors.
libvirt-python has no types: nothing of its objects leaves this module.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import libvirt
import libvirt_qemu

from sevfork.domain import xml as domain_xml
from sevfork.domain.disks import has_target
from sevfork.domain.elements import E, parse, to_text
from sevfork.domain.metadata_xml import FORMER_NAMESPACE, NAMESPACE, PREFIX
from sevfork.domain.spec import Accelerator
from sevfork.errors import (
    HostCannot,
    HypervisorUnreachable,
    NameTaken,
    SevforkError,
    TimedOut,
    WrongState,
)
from sevfork.host import hypervisor as hv
from sevfork.host.channel import StreamChannel

log = logging.getLogger(__name__)

POOL = "sevfork"
_REFRESH_TIMEOUT_S = 30
_STREAM_PIECE = 256 * 1024
_CHANNEL_PIECE = 64 * 1024
_WOULD_BLOCK = -2
_READABLE = libvirt.VIR_STREAM_EVENT_READABLE
_ENDED = libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP
# A dead peer is noticed after about a minute: first capability probes keep libvirtd's workers, but
# not its main loop, busy for longer than that.
_KEEPALIVE_INTERVAL_S, _KEEPALIVE_COUNT = 10, 6

_Function = TypeVar("_Function", bound=Callable[..., Any])

_UNREACHABLE = {
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
    libvirt.VIR_ERR_RPC,
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_CANCELLED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
    libvirt.VIR_ERR_NO_CLIENT,
}
_HOST_CANNOT = {
    libvirt.VIR_ERR_NO_SUPPORT,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
    libvirt.VIR_ERR_NO_MEMORY,
    libvirt.VIR_ERR_NO_KVM if hasattr(libvirt, "VIR_ERR_NO_KVM") else -1,
}
_WRONG_STATE = {
    libvirt.VIR_ERR_NO_DOMAIN,
    libvirt.VIR_ERR_OPERATION_INVALID,
    libvirt.VIR_ERR_NO_DOMAIN_METADATA,
    libvirt.VIR_ERR_NO_STORAGE_VOL,
    libvirt.VIR_ERR_NO_STORAGE_POOL,
}
_TIMED_OUT = {libvirt.VIR_ERR_OPERATION_TIMEOUT}
_NO_MEMORY = re.compile(r"cannot (set up guest memory|allocate memory)", re.IGNORECASE)
_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: hv.DomainState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: hv.DomainState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: hv.DomainState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: hv.DomainState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: hv.DomainState.PAUSED,
    libvirt.VIR_DOMAIN_CRASHED: hv.DomainState.CRASHED,
}


def translate(error: libvirt.libvirtError) -> SevforkError:
    """Our error for libvirt's, with libvirt's own words in the message."""
    code, message = error.get_error_code(), _first_line(error)
    if _NO_MEMORY.search(message):
        hint = "give it less --memory, or end another VM"
        return HostCannot(f"not enough free memory for the VM: {message}", hint=hint)
    if code in _UNREACHABLE or error.get_error_domain() == libvirt.VIR_FROM_RPC:
        return HypervisorUnreachable(f"libvirt does not answer: {message}")
    for codes, kind in (
        (_HOST_CANNOT, HostCannot),
        (_WRONG_STATE, WrongState),
        (_TIMED_OUT, TimedOut),
    ):
        if code in codes:
            return kind(f"libvirt: {message}")
    return SevforkError(f"libvirt: {message}")


def _first_line(error: libvirt.libvirtError) -> str:
    lines = (error.get_error_message() or str(error)).strip().splitlines()
    return lines[-1].strip() if lines else "unknown error"


def _translated(function: _Function) -> _Function:
    """Turn every libvirtError that leaves a function into ours; and log the call."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        log.debug("%s %s", function.__name__, " ".join(str(each)[:60] for each in args[1:]))
        try:
            return function(*args, **kwargs)
        except libvirt.libvirtError as exc:
            raise translate(exc) from exc

    return call  # type: ignore[return-value]  # the same signature, by construction


def _has_code(error: libvirt.libvirtError, *codes: int) -> bool:
    return error.get_error_code() in codes


_event_loop = threading.Lock()
_event_loop_runs = False


def _run_event_loop() -> None:
    """libvirt's default event loop on a daemon thread: channels and keep-alive need it."""
    global _event_loop_runs
    with _event_loop:
        if _event_loop_runs:
            return
        _event_loop_runs = True
        libvirt.registerErrorHandler(lambda _context, _error: None, None)  # it would print
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_turn_events, name="libvirt-events", daemon=True).start()


def _turn_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def connect(uri: str, *, pool_path: str | None = None) -> LibvirtHypervisor:
    """Connect, or raise HypervisorUnreachable.

    ``pool_path`` is where the storage pool is made if there is none; None leaves libvirt's default.
    """
    return LibvirtHypervisor(_open(uri), uri, pool_path)


def _open(uri: str) -> Any:
    _run_event_loop()
    try:
        connection = libvirt.open(uri)
    except libvirt.libvirtError as exc:
        raise HypervisorUnreachable(f"no libvirt at '{uri}': {_first_line(exc)}") from exc
    with contextlib.suppress(libvirt.libvirtError):  # test:/// and embedded connections have none
        connection.setKeepAlive(_KEEPALIVE_INTERVAL_S, _KEEPALIVE_COUNT)
    return connection


def _close(connection: Any) -> None:
    with contextlib.suppress(libvirt.libvirtError):  # closing what is closed already
        connection.close()


class LibvirtHypervisor:
    """``hypervisor.Hypervisor`` on one libvirt connection."""

    def __init__(self, connection: Any, uri: str, pool_path: str | None) -> None:
        self._connection = connection
        self._uri = uri
        self.storage = LibvirtStorage(connection, pool_path or default_pool_path(uri))

    @property
    def uri(self) -> str:
        return self._uri

    @property
    def local(self) -> bool:
        return is_local(self._uri)

    @_translated
    def facts(self) -> hv.HostFacts:
        memory = self._connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
        # What the kernel can give up again counts as free: there is no MemAvailable here.
        free_kib = sum(memory.get(each, 0) for each in ("free", "buffers", "cached"))
        return hv.HostFacts(
            name=self._connection.getHostname(),
            libvirt=_version(self._connection.getLibVersion()),
            qemu=_version(self._connection.getVersion()),
            cpus=self._connection.getInfo()[2],
            memory_mib=memory.get("total", 0) // 1024,
            free_memory_mib=free_kib // 1024,
        )

    def domain_capabilities(self, accelerator: Accelerator) -> str | None:
        try:
            text = self._connection.getDomainCapabilities(
                None, "x86_64", "q35", accelerator.value, 0
            )
        except libvirt.libvirtError as exc:
            error = translate(exc)
            if isinstance(error, HypervisorUnreachable):
                raise error from exc
            log.debug("no domain capabilities for '%s': %s", accelerator.value, exc)
            return None
        return str(text)

    @_translated
    def domains(self) -> tuple[hv.Domain, ...]:
        found = (_snapshot(each) for each in self._connection.listAllDomains(0))
        return tuple(each for each in found if each is not None)

    @_translated
    def find(self, reference: str) -> hv.Domain:
        for lookup in (self._by_name, self._by_uuid, self._by_id):
            found = lookup(reference)
            domain = found and _snapshot(found)
            if domain:
                return domain
        raise WrongState(f"there is no VM '{reference}'", hint="see 'sevfork ls'")

    def _by_name(self, reference: str) -> Any:
        return _none_if_missing(self._connection.lookupByName, reference)

    def _by_uuid(self, reference: str) -> Any:
        if not re.fullmatch(r"[0-9a-fA-F-]{32,36}", reference):
            return None
        return _none_if_missing(self._connection.lookupByUUIDString, reference)

    def _by_id(self, reference: str) -> Any:
        if not re.fullmatch(r"[0-9]{1,9}", reference):
            return None
        return _none_if_missing(self._connection.lookupByID, int(reference))

    @_translated
    def xml(self, uuid: str) -> str:
        return str(self._domain(uuid).XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE))

    def define(self, xml: str) -> hv.Domain:
        name = parse(xml).findtext("name")
        try:
            found = _snapshot(
                self._connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
            )
        except libvirt.libvirtError as exc:
            if "already exists with uuid" in str(exc):
                hint = "choose another name, or --replace"
                raise NameTaken(f"'{name}' exists already", hint=hint) from exc
            raise translate(exc) from exc
        if found is None:
            raise WrongState(f"'{name}' went away while it was made")
        return found

    def start(self, uuid: str) -> None:
        try:
            self._domain(uuid).create()
        except libvirt.libvirtError as exc:
            error = translate(exc)
            if type(error) is not SevforkError:
                raise error from exc
            # Whatever QEMU could not do on this host: a missing file, a feature, a port.
            raise HostCannot(f"the VM does not start: {_first_line(exc)}") from exc

    @_translated
    def destroy(self, uuid: str) -> None:
        with _ignoring(libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
            self._domain(uuid).destroy()

    @_translated
    def undefine(self, uuid: str) -> None:
        with _ignoring(libvirt.VIR_ERR_NO_DOMAIN):
            self._domain(uuid).undefine()

    @_translated
    def set_metadata(self, uuid: str, element: str) -> None:
        domain = self._domain(uuid)
        flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG
        if domain.isActive():
            flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
        kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
        domain.setMetadata(kind, None, None, FORMER_NAMESPACE, flags)
        domain.setMetadata(kind, element, PREFIX, NAMESPACE, flags)

    @_translated
    def attach_device(self, uuid: str, xml: str) -> None:
        self._domain(uuid).attachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    @_translated
    def detach_disk(self, uuid: str, xml: str, target: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        domain = self._domain(uuid)
        domain.detachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        # libvirt returns after 5 s whether the guest has let go or not.
        while has_target(domain.XMLDesc(0), target):
            if time.monotonic() >= deadline:
                raise TimedOut(f"the guest did not let the disk '{target}' go")
            time.sleep(0.1)

    @_translated
    def set_link(self, uuid: str, *, up: bool) -> None:
        domain = self._domain(uuid)
        interface = domain_xml.link_xml(domain.XMLDesc(0), link_up=up)
        domain.updateDeviceFlags(interface, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    @_translated
    def publish(self, uuid: str, host_port: int, guest_port: int) -> None:
        # hostnet0 is libvirt's name for the netdev of the first interface.
        forward = f"hostfwd_add hostnet0 tcp:127.0.0.1:{host_port:d}-:{guest_port:d}"
        hmp = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
        answer = libvirt_qemu.qemuMonitorCommand(self._domain(uuid), forward, hmp)
        if "could not set up host forwarding" in answer.lower():
            raise hv.PortTaken.of(host_port)
        if answer.strip():
            raise HostCannot(f"cannot publish port {guest_port}: {answer.strip()}")

    def open_channel(self, uuid: str) -> hv.Channel:
        connection = _open(self._uri)
        try:
            stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
            connection.lookupByUUIDString(uuid).openChannel(domain_xml.CHANNEL_NAME, stream, 0)
        except libvirt.libvirtError as exc:
            _close(connection)
            if "Active channel stream exists" in str(exc):
                raise hv.ChannelBusy(
                    "another command talks to the VM's agent", hint="wait for it to end"
                ) from exc
            raise translate(exc) from exc
        return StreamChannel(LibvirtStream(connection, stream))

    def close(self) -> None:
        _close(self._connection)

    def _domain(self, uuid: str) -> Any:
        return self._connection.lookupByUUIDString(uuid)


class LibvirtStream:
    """``channel.EventStream`` on a non-blocking libvirt stream with a connection of its own."""

    def __init__(self, connection: Any, stream: Any) -> None:
        self._connection, self._stream = connection, stream
        self._listening = False

    def listen(
        self, on_data: Callable[[bytes], None], on_end: Callable[[SevforkError], None]
    ) -> None:
        self._listening = True
        self._stream.eventAddCallback(_READABLE | _ENDED, self._event, (on_data, on_end))

    def pause(self, paused: bool) -> None:
        with contextlib.suppress(libvirt.libvirtError):  # a stream that ended meanwhile
            self._stream.eventUpdateCallback(_ENDED if paused else _READABLE | _ENDED)

    def send(self, data: bytes) -> int:
        try:
            taken = int(self._stream.send(data))
        except libvirt.libvirtError as exc:
            raise hv.ChannelClosed(f"the channel broke: {_first_line(exc)}") from exc
        return max(taken, 0)  # -2 where it would block

    def abort(self) -> None:
        self._stop_listening()
        _abort(self._stream)
        _close(self._connection)

    def _event(self, _stream: Any, events: int, callbacks: Any) -> None:
        on_data, on_end = callbacks
        try:
            data = self._stream.recv(_CHANNEL_PIECE) if events & _READABLE else b""
        except libvirt.libvirtError as exc:
            log.debug("channel: %s", _first_line(exc))
            data = b""
        if data == _WOULD_BLOCK:
            return
        if data:
            on_data(data)
        else:
            self._stop_listening()
            on_end(hv.ChannelClosed("the VM closed the channel: it has ended"))

    def _stop_listening(self) -> None:
        if self._listening:
            self._listening = False
            with contextlib.suppress(libvirt.libvirtError):  # the connection is gone
                self._stream.eventRemoveCallback()


def _abort(stream: Any) -> None:
    with contextlib.suppress(libvirt.libvirtError):  # a broken stream is as good as aborted
        stream.abort()


class LibvirtStorage:
    """``hypervisor.Storage`` on the pool "sevfork", which is made on first use.

    A pool of that name that an admin has defined (NFS, for instance) is used as it is.
    """

    def __init__(self, connection: Any, pool_path: str | None) -> None:
        self._connection = connection
        self._pool_path = pool_path

    @_translated
    def volumes(self) -> tuple[hv.Volume, ...]:
        pool = self._existing_pool()
        if pool is None:
            return ()
        _refresh(pool)
        found = (_volume(each) for each in pool.listAllVolumes(0))
        return tuple(each for each in found if each is not None)

    @_translated
    def find(self, name: str) -> hv.Volume | None:
        return next((each for each in self.volumes() if each.name == name), None)

    @_translated
    def create(self, name: str, size_bytes: int) -> hv.Volume:
        xml = E.volume(
            E.name(name),
            E.capacity(str(size_bytes), unit="bytes"),
            E.allocation("0", unit="bytes"),
            E.target(E.format(type="raw")),
        )
        try:
            made = self._pool().createXML(to_text(xml), 0)
        except libvirt.libvirtError as exc:
            if _has_code(exc, libvirt.VIR_ERR_STORAGE_VOL_EXIST) or "already exists" in str(exc):
                raise hv.VolumeExists(f"the storage volume '{name}' exists") from exc
            raise
        return hv.Volume(name, made.path(), size_bytes)

    def upload(self, name: str, pieces: Iterable[bytes], size_bytes: int) -> Iterator[int]:
        with self._stream(name, size_bytes, upload=True) as stream:
            written = 0
            for piece in pieces:
                written += _send_all(stream, piece)
                yield written

    def download(self, name: str, size_bytes: int) -> Iterator[bytes]:
        with self._stream(name, size_bytes, upload=False) as stream:
            while piece := _received(stream):
                yield piece

    @_translated
    def delete(self, name: str) -> None:
        # A file that QEMU made (a serial log) is a volume only after a refresh.
        if self.find(name) is not None:
            with _ignoring(libvirt.VIR_ERR_NO_STORAGE_VOL):
                self._pool().storageVolLookupByName(name).delete(0)

    @_translated
    def path_of(self, name: str) -> str:
        pool = self._existing_pool()
        if pool is None:  # a dry run makes no pool
            return f"{self._required_path()}/{name}"
        return f"{parse(pool.XMLDesc(0)).findtext('target/path')}/{name}"

    @_translated
    def free_bytes(self) -> int:
        pool = self._pool()
        _refresh(pool)
        return int(pool.info()[3])

    @contextlib.contextmanager
    def _stream(self, name: str, size_bytes: int, *, upload: bool) -> Iterator[Any]:
        stream = self._connection.newStream(0)
        try:
            volume = self._pool().storageVolLookupByName(name)
            (volume.upload if upload else volume.download)(stream, 0, size_bytes, 0)
            yield stream
            stream.finish()
        except libvirt.libvirtError as exc:
            raise translate(exc) from exc
        except BaseException:
            _abort(stream)
            raise

    def _pool(self) -> Any:
        return self._existing_pool() or self._make_pool()

    def _existing_pool(self) -> Any:
        """The pool, started; None if there is none."""
        try:
            pool = self._connection.storagePoolLookupByName(POOL)
        except libvirt.libvirtError as exc:
            if _has_code(exc, libvirt.VIR_ERR_NO_STORAGE_POOL):
                return None
            raise
        if not pool.isActive():
            with _ignoring(libvirt.VIR_ERR_OPERATION_INVALID):  # another command was faster
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
    deadline = time.monotonic() + _REFRESH_TIMEOUT_S
    while True:
        try:
            pool.refresh(0)
            return
        except libvirt.libvirtError as exc:
            if "asynchronous jobs running" not in str(exc) or time.monotonic() >= deadline:
                raise
        time.sleep(0.05)


def is_local(uri: str) -> bool:
    """Whether a connection URI speaks of this machine: it has no host part."""
    return re.match(r"[a-z0-9+]+:///", uri) is not None


def default_pool_path(uri: str) -> str | None:
    """A sensible directory for the pool, None where only the libvirt host's admin knows one."""
    if re.search(r"/session(\?|$)", uri):
        return None
    return "/var/lib/libvirt/images/sevfork"


def _version(number: int) -> tuple[int, int, int]:
    return number // 1_000_000, number // 1000 % 1000, number % 1000


def _none_if_missing(lookup: Callable[[Any], Any], key: object) -> Any:
    try:
        return lookup(key)
    except libvirt.libvirtError as exc:
        if _has_code(exc, libvirt.VIR_ERR_NO_DOMAIN):
            return None
        raise


@contextlib.contextmanager
def _ignoring(*codes: int) -> Iterator[None]:
    """Let errors with these codes pass: what was to be brought about is so already."""
    try:
        yield
    except libvirt.libvirtError as exc:
        if not _has_code(exc, *codes):
            raise


def _snapshot(domain: Any) -> hv.Domain | None:
    """A domain as data, or None if it went away meanwhile."""
    try:
        state, memory_kib, _, vcpus, _ = domain.info()
        return hv.Domain(
            name=domain.name(),
            uuid=domain.UUIDString(),
            id=domain.ID() if domain.ID() >= 0 else None,
            state=_STATES.get(state, hv.DomainState.SHUT_OFF),
            memory_mib=memory_kib // 1024,
            vcpus=vcpus,
            metadata_xml=_metadata(domain),
        )
    except libvirt.libvirtError as exc:
        if _has_code(exc, libvirt.VIR_ERR_NO_DOMAIN):
            return None
        raise


def _metadata(domain: Any) -> str | None:
    for namespace in (NAMESPACE, FORMER_NAMESPACE):
        with _ignoring(libvirt.VIR_ERR_NO_DOMAIN_METADATA):
            return str(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, namespace, 0))
    return None


def _volume(volume: Any) -> hv.Volume | None:
    try:
        return hv.Volume(volume.name(), volume.path(), volume.info()[1])
    except libvirt.libvirtError as exc:
        if _has_code(exc, libvirt.VIR_ERR_NO_STORAGE_VOL):
            return None
        raise


def _send_all(stream: Any, data: bytes) -> int:
    view = memoryview(data)
    while view:
        view = view[stream.send(bytes(view)) :]
    return len(data)


def _received(stream: Any) -> bytes:
    return bytes(stream.recv(_STREAM_PIECE))
