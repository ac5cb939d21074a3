"""The libvirt adapter against libvirt's own test driver, which needs no daemon and no privilege."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace

import libvirt
import pytest

from sevfork.domain import metadata_xml
from sevfork.domain.metadata import Metadata, Phase, ProcessorState
from sevfork.domain.metadata_xml import FORMER_NAMESPACE, NAMESPACE
from sevfork.domain.spec import Accelerator, Boot, GuestSpec, random_mac
from sevfork.domain.xml import domain_xml, spec_from_xml
from sevfork.errors import HostCannot, HypervisorUnreachable, NameTaken, SevforkError, WrongState
from sevfork.handshake.launch import Role
from sevfork.host.hypervisor import DomainState, VolumeExists
from sevfork.host.libvirt import hypervisor as adapter
from sevfork.host.libvirt import storage
from sevfork.host.libvirt.connection import is_local
from sevfork.lifecycle import inventory
from sevfork.lifecycle.remove import remove_domain
from sevfork.technology import Technology

POOL_PATH = "/sevfork-test"
_numbers = itertools.count(1)


@pytest.fixture
def hypervisor() -> Iterator[adapter.LibvirtHypervisor]:
    connected = adapter.connect("test:///default", pool_path=POOL_PATH)
    yield connected
    for domain in connected.domains():
        if domain.metadata_xml:
            connected.destroy(domain.uuid)
            connected.undefine(domain.uuid)
    connected.close()


def spec(name: str | None = None) -> GuestSpec:
    metadata = Metadata(
        technology=Technology.SIMULATED,
        role=Role.ROOT,
        phase=Phase.FORMING,
        image="redis",
        cpu_model="maximum",
        volumes=("x.log",),
        processor=ProcessorState(b"\x01" * 48, b"\x02" * 32, b"\x03" * 32),
    )
    return GuestSpec(
        name=name or f"vm{next(_numbers)}",
        uuid=str(uuid.uuid4()),
        memory_mib=64,
        vcpus=1,
        accelerator=Accelerator.TCG,
        boot=Boot("/k", "/i", "/r", "console=ttyS0"),
        mac=random_mac(),
        console_log="/x.log",
        metadata=metadata,
    )


def for_test_driver(guest: GuestSpec) -> str:
    """The test driver knows one domain type only, and no CPU modes of QEMU's."""
    text = domain_xml(guest).replace('<domain type="qemu">', '<domain type="test">')
    return text.replace('arch="x86_64" machine="q35"', 'arch="i686"')


def test_a_domain_is_defined_found_started_ended_and_forgotten(
    hypervisor: adapter.LibvirtHypervisor,
) -> None:
    guest = spec()
    assert hypervisor.define(for_test_driver(guest)).state is DomainState.SHUT_OFF
    hypervisor.start(guest.uuid)
    running = hypervisor.find(guest.name)
    assert running.state is DomainState.RUNNING
    assert hypervisor.find(guest.uuid) == hypervisor.find(str(running.id)) == running
    hypervisor.destroy(guest.uuid)
    assert hypervisor.find(guest.name).id is None
    hypervisor.undefine(guest.uuid)
    with pytest.raises(WrongState, match="there is no VM"):
        hypervisor.find(guest.name)


def test_ending_and_forgetting_may_be_repeated(hypervisor: adapter.LibvirtHypervisor) -> None:
    guest = spec()
    hypervisor.define(for_test_driver(guest))
    for _ in range(2):
        hypervisor.destroy(guest.uuid)
    for _ in range(2):
        hypervisor.undefine(guest.uuid)
    hypervisor.destroy(guest.uuid)


def test_a_name_that_is_taken_is_our_error(hypervisor: adapter.LibvirtHypervisor) -> None:
    guest = spec()
    hypervisor.define(for_test_driver(guest))
    with pytest.raises(NameTaken, match=guest.name):
        hypervisor.define(for_test_driver(replace(guest, uuid=str(uuid.uuid4()))))


def test_metadata_is_kept_by_libvirt_and_replaced(hypervisor: adapter.LibvirtHypervisor) -> None:
    guest = spec()
    hypervisor.define(for_test_driver(guest))
    hypervisor.start(guest.uuid)
    found = hypervisor.find(guest.uuid).metadata_xml
    assert found is not None
    assert metadata_xml.read(found) == guest.metadata
    ready = replace(guest.metadata, phase=Phase.READY, generation=3)
    hypervisor.set_metadata(guest.uuid, metadata_xml.write(ready))
    (listed,) = [each for each in hypervisor.domains() if each.uuid == guest.uuid]
    assert metadata_xml.read(listed.metadata_xml or "") == ready


def test_a_domain_with_the_former_namespace_is_listed_renewed_and_removed(
    hypervisor: adapter.LibvirtHypervisor,
) -> None:
    guest = spec()
    former = for_test_driver(guest).replace(NAMESPACE, FORMER_NAMESPACE)
    assert hypervisor.define(former).metadata_xml is not None
    hypervisor.start(guest.uuid)
    (vm,) = (each for each in inventory.vms(hypervisor.domains()) if each.domain.name == guest.name)
    assert vm.metadata == guest.metadata
    text = hypervisor.xml(guest.uuid).replace("type='test'", "type='qemu'")
    assert spec_from_xml(text) == guest

    hypervisor.set_metadata(guest.uuid, metadata_xml.write(replace(guest.metadata, generation=3)))
    for _ in ("while it runs", "for good"):
        renewed = hypervisor.xml(guest.uuid)
        assert FORMER_NAMESPACE not in renewed
        assert NAMESPACE in renewed
        assert metadata_xml.read(hypervisor.find(guest.uuid).metadata_xml or "").generation == 3
        hypervisor.destroy(guest.uuid)


def test_a_domain_with_the_former_namespace_is_removed(
    hypervisor: adapter.LibvirtHypervisor,
) -> None:
    guest = spec()
    hypervisor.define(for_test_driver(guest).replace(NAMESPACE, FORMER_NAMESPACE))
    remove_domain(hypervisor, hypervisor.find(guest.name))
    with pytest.raises(WrongState):
        hypervisor.find(guest.name)


def test_a_spec_survives_what_libvirt_makes_of_the_xml(
    hypervisor: adapter.LibvirtHypervisor,
) -> None:
    guest = spec()
    hypervisor.define(for_test_driver(guest))
    text = hypervisor.xml(guest.uuid).replace("type='test'", "type='qemu'")
    assert spec_from_xml(text) == guest


def test_every_call_leaves_one_line_under_debug(
    hypervisor: adapter.LibvirtHypervisor, caplog: pytest.LogCaptureFixture
) -> None:
    guest = spec()
    with caplog.at_level(logging.DEBUG):
        hypervisor.define(for_test_driver(guest))
        hypervisor.start(guest.uuid)
        with pytest.raises(SevforkError):
            hypervisor.open_channel(guest.uuid)
        for transfer in (
            hypervisor.storage.download("x", 1),
            hypervisor.storage.upload("x", [b"x"], 1),
        ):
            with pytest.raises(SevforkError):
                list(transfer)
    said = [each.getMessage().split()[0] for each in caplog.records]
    assert said == ["define", "start", "open_channel", "connect", "download", "upload"]


def test_somebody_elses_domain_has_no_metadata(hypervisor: adapter.LibvirtHypervisor) -> None:
    assert hypervisor.find("test").metadata_xml is None


def test_volumes_are_made_found_and_deleted(hypervisor: adapter.LibvirtHypervisor) -> None:
    storage, name = hypervisor.storage, f"vol{next(_numbers)}"
    assert storage.find(name) is None
    made = storage.create(name, 4096)
    assert made.path == storage.path_of(name) == f"{POOL_PATH}/{name}"
    with pytest.raises(VolumeExists):
        storage.create(name, 4096)
    for _ in range(2):
        storage.delete(name)
    assert storage.find(name) is None


def system_error(number: int) -> libvirt.libvirtError:
    """As libvirt's ``virReportSystemErrorFull`` makes it; the test driver's pools never fail."""
    error = libvirt.libvirtError("")
    message = f"Failed to create file '/x': {os.strerror(number)}"
    error.err = (libvirt.VIR_ERR_SYSTEM_ERROR, 18, message, 2, "%s", message, None, number, -1)
    return error


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [
        (errno.ENOSPC, 13),
        (errno.EDQUOT, 13),
        (errno.EROFS, 13),
        (errno.EIO, 13),
        (errno.EEXIST, 1),
    ],
)
def test_a_pool_that_takes_no_volume_is_named(
    hypervisor: adapter.LibvirtHypervisor,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    exit_code: int,
) -> None:
    def fails(*_: object) -> None:
        raise system_error(number)

    monkeypatch.setattr(libvirt.virStoragePool, "createXML", fails)
    with pytest.raises(SevforkError) as caught:
        hypervisor.storage.create(f"vol{next(_numbers)}", 4096)
    assert caught.value.exit_code == exit_code
    assert os.strerror(number) in caught.value.message
    if exit_code == 13:
        assert f"the storage pool at '{POOL_PATH}'" in caught.value.message


def test_looking_makes_no_pool() -> None:
    beside = libvirt.open("test:///default")  # the same machine for all of a process
    for pool in beside.listAllStoragePools():
        if pool.name() == "sevfork":  # of a test before this one
            pool.destroy()
            pool.undefine()
    connected = adapter.connect("test:///default")
    try:
        before = beside.listStoragePools()
        assert connected.storage.find("anything") is None
        assert connected.storage.path_of("x").endswith("/sevfork/x")
        assert beside.listStoragePools() == before
    finally:
        connected.close()
        beside.close()


def test_a_domain_that_is_gone_is_a_wrong_state(hypervisor: adapter.LibvirtHypervisor) -> None:
    nobody = str(uuid.uuid4())
    for call in (hypervisor.xml, hypervisor.start, hypervisor.open_channel):
        with pytest.raises(WrongState):
            call(nobody)


def test_a_libvirt_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(HypervisorUnreachable, match="nonexistent"):
        adapter.connect("qemu+unix:///system?socket=/nonexistent")


def test_what_a_driver_cannot_do_is_told(hypervisor: adapter.LibvirtHypervisor) -> None:
    with pytest.raises(HostCannot, match="not supported"):
        hypervisor.facts()


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("qemu:///system", True),
        ("qemu+unix:///system?socket=/x", True),
        ("qemu+ssh://host/system", False),
        ("qemu+tls://[::1]:16514/system", False),
    ],
)
def test_whether_a_connection_is_to_this_machine(uri: str, local: bool) -> None:
    assert is_local(uri) is local


def test_a_pool_whose_server_has_vanished_is_told_and_left_alone(
    hypervisor: adapter.LibvirtHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    back, asked = threading.Event(), []

    def refresh(_pool: object, _flags: int) -> None:
        asked.append(1)
        assert back.wait(30)

    path = hypervisor.storage.path_of("").rstrip("/")
    monkeypatch.setattr(storage, "ANSWER_TIMEOUT_S", 0.1)
    monkeypatch.setattr(libvirt.virStoragePool, "refresh", refresh)
    for act in (hypervisor.storage.free_bytes, hypervisor.storage.volumes):
        with pytest.raises(HostCannot, match=f"the storage pool at '{path}' does not answer"):
            act()
    assert len(asked) == 1
    back.set()
    monkeypatch.setattr(hypervisor.storage, "_left_alone_until", 0.0)
    monkeypatch.setattr(storage, "ANSWER_TIMEOUT_S", 20.0)
    assert hypervisor.storage.free_bytes() > 0
