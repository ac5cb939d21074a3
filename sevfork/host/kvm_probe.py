"""KVM when it really runs a guest, else TCG.

``/dev/kvm`` proves little: nested and partly emulated KVMs open, and then fail at the first guest.
So the image's own kernel is started under KVM in a small domain, and has to get as far as its first
user process. The answer is kept for this libvirt host, QEMU and kernel.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import struct
import time
import uuid as uuids
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sevfork.deadline import Deadline
from sevfork.domain.metadata import Metadata, Phase
from sevfork.domain.spec import Accelerator, Boot, GuestSpec, console_log_name, random_mac
from sevfork.domain.xml import domain_xml
from sevfork.errors import HostCannot, SevforkError
from sevfork.handshake.launch import Role
from sevfork.host import maker
from sevfork.host.hypervisor import Hypervisor
from sevfork.image.paths import cache_directory
from sevfork.technology import Technology

log = logging.getLogger(__name__)

# What a kernel says when it starts user space; under KVM that takes a second or two.
_SENTINEL = b"Run /init"
_NO_KVM = "libvirt offers no KVM (no /dev/kvm, or no right to open it)"
_CMDLINE = "console=ttyS0 ignore_loglevel panic=-1"
_TIMEOUT_S = 15.0
_POLL_S = 0.2
_MEMORY_MIB = 256
# A host is repaired some day: a "no" is asked again.
_NO_KEPT_S = 24 * 3600


@dataclass(frozen=True)
class Probe:
    """Whether KVM runs a guest on the libvirt host, and how that is known."""

    works: bool
    reason: str


def choose(hypervisor: Hypervisor, boot: Boot, wanted: Accelerator | None) -> Accelerator:
    """The accelerator for guests that boot this; raises HostCannot if the wanted one fails."""
    if wanted is Accelerator.TCG:
        return wanted
    probe = kvm(hypervisor, boot)
    if wanted is Accelerator.KVM and not probe.works:
        raise HostCannot(f"KVM does not run guests here: {probe.reason}")
    return Accelerator.KVM if probe.works else Accelerator.TCG


def expected(hypervisor: Hypervisor, boot: Boot, wanted: Accelerator | None) -> Accelerator:
    """What ``choose`` is going to say, as far as that is known without starting a guest."""
    kept = _Kept(hypervisor, boot).read()
    return wanted or (Accelerator.KVM if kept and kept.works else Accelerator.TCG)


def kvm(hypervisor: Hypervisor, boot: Boot) -> Probe:
    """Ask the cache, else start a guest."""
    if hypervisor.domain_capabilities(Accelerator.KVM) is None:
        return Probe(False, _NO_KVM)
    kept = _Kept(hypervisor, boot)
    found = kept.read()
    if found is None:
        found = _probe(hypervisor, boot)
        kept.write(found)
    return found


def kvm_without_image(hypervisor: Hypervisor) -> Probe:
    """Whether KVM runs the least of guests, for a host on which there is no image yet."""
    storage, name = hypervisor.storage, f"probe-{maker.tag()}.kernel"
    if hypervisor.domain_capabilities(Accelerator.KVM) is None:
        return Probe(False, _NO_KVM)
    kernel = least_kernel()
    try:
        path = storage.create(name, 0).path
        for _written in storage.upload(name, [kernel], len(kernel)):
            pass
        return _probe(hypervisor, Boot(path, path, path, _CMDLINE))
    finally:
        storage.delete(name)


def least_kernel() -> bytes:
    """A multiboot kernel that writes the sentinel to the serial port and switches itself off.

    Multiboot specification 0.6.96, 3.1: magic, flags (bit 16: addresses follow), checksum, header,
    load, load end, bss end and entry address. Power off is ACPI's S5 at q35's PM1a control port.
    """
    magic, flags, load_address = 0x1BADB002, 1 << 16, 0x100000
    code = b"".join(b"\x66\xba\xf8\x03\xb0" + bytes([char]) + b"\xee" for char in _SENTINEL)
    code += bytes.fromhex("66ba0406 66b80020 66ef f4 ebfd")
    entry, end = load_address + 32, load_address + 32 + len(code)
    header = (
        magic,
        flags,
        -(magic + flags) & 0xFFFFFFFF,
        load_address,
        load_address,
        end,
        end,
        entry,
    )
    return struct.pack("<8I", *header) + code


def _probe(hypervisor: Hypervisor, boot: Boot) -> Probe:
    with _tiny_guest(hypervisor, boot) as spec:
        try:
            hypervisor.define(domain_xml(spec))
            hypervisor.start(spec.uuid)
        except SevforkError as exc:
            return Probe(False, f"QEMU starts no guest with it: {exc.message}")
        return _watch(hypervisor, spec)


def _watch(hypervisor: Hypervisor, spec: GuestSpec) -> Probe:
    deadline = Deadline.after(_TIMEOUT_S)
    while not deadline.passed:
        ended = not hypervisor.find(spec.uuid).state.active
        if _SENTINEL in _console(hypervisor, spec):
            return Probe(True, "a guest's kernel started its first process")
        if ended:
            return Probe(False, "a guest ended before its kernel had started")
        time.sleep(_POLL_S)
    return Probe(False, f"a guest's kernel did not start within {_TIMEOUT_S:g} s")


def _console(hypervisor: Hypervisor, spec: GuestSpec) -> bytes:
    volume = hypervisor.storage.find(spec.metadata.volumes[0])
    if volume is None or not volume.size_bytes:
        return b""
    return b"".join(hypervisor.storage.download(volume.name, volume.size_bytes))


@contextlib.contextmanager
def _tiny_guest(hypervisor: Hypervisor, boot: Boot) -> Iterator[GuestSpec]:
    spec = _spec(hypervisor, boot)
    try:
        yield spec
    finally:
        hypervisor.destroy(spec.uuid)
        hypervisor.undefine(spec.uuid)
        hypervisor.storage.delete(spec.metadata.volumes[0])


def _spec(hypervisor: Hypervisor, boot: Boot) -> GuestSpec:
    name, uuid = f"sevfork-probe-{secrets.token_hex(4)}", str(uuids.uuid4())
    log_name = console_log_name(name, uuid)
    metadata = Metadata(
        technology=Technology.SIMULATED,
        role=Role.ROOT,
        phase=Phase.FORMING,  # a killed probe is cleaned away like any half-made VM
        image="kvm-probe",
        cpu_model="maximum",
        volumes=(log_name,),
        maker=maker.this_process(),
    )
    return GuestSpec(
        name=name,
        uuid=uuid,
        memory_mib=_MEMORY_MIB,
        vcpus=1,
        accelerator=Accelerator.KVM,
        boot=replace(boot, cmdline=_CMDLINE),
        mac=random_mac(),
        console_log=hypervisor.storage.path_of(log_name),
        metadata=metadata,
        link_up=False,
    )


class _Kept:
    """The answer in the user's cache directory, by libvirt host, versions and kernel."""

    def __init__(self, hypervisor: Hypervisor, boot: Boot) -> None:
        facts = hypervisor.facts()
        key = json.dumps([hypervisor.uri, facts.name, facts.libvirt, facts.qemu, boot.kernel])
        name = f"kvm-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        self._path: Path = cache_directory(os.environ) / name

    def read(self) -> Probe | None:
        try:
            kept = json.loads(self._path.read_bytes())
            age_s = time.time() - self._path.stat().st_mtime
            probe = Probe(bool(kept["works"]), str(kept["reason"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None  # never asked, or half a file: ask again
        return probe if probe.works or age_s < _NO_KEPT_S else None

    def write(self, probe: Probe) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({"works": probe.works, "reason": probe.reason}))
        partial.replace(self._path)
