"""The private libvirtd, for real: started once, out of the system's way, survived by its guests.

The guest is a hundred bytes of multiboot kernel under TCG, so all of it takes seconds.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import libvirt
import pytest

from sevfork.deadline import Deadline
from sevfork.domain import metadata_xml
from sevfork.domain.disks import disk_xml, has_target
from sevfork.domain.metadata import Metadata, Phase, ProcessorState, PublishedPort, Transport
from sevfork.domain.spec import Accelerator, Boot, GuestSpec, random_mac
from sevfork.domain.xml import domain_xml, spec_from_xml
from sevfork.errors import HostCannot, HypervisorUnreachable, TimedOut, WrongState
from sevfork.handshake.launch import Role
from sevfork.host import private_libvirtd
from sevfork.host.hypervisor import ChannelBusy, ChannelClosed, Hypervisor, PortTaken
from sevfork.host.kvm_probe import least_kernel
from sevfork.host.libvirt import connection
from sevfork.host.libvirt.hypervisor import connect
from sevfork.host.private_libvirtd import LOG_LIMIT_BYTES
from sevfork.lifecycle.agents import open_agent
from sevfork.technology import Technology
from sevfork.wire.lines import MAX_LINE_SIZE
from tests.support.jobs import job_on

pytestmark = [
    pytest.mark.machine,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("libvirtd", path="/usr/sbin:/usr/bin"),
        reason="a private libvirtd is root's, and libvirtd has to be installed",
    ),
]

# Instead of switching itself off, the kernel halts for good: `out` becomes two `nop`s.
PATIENT_KERNEL = least_kernel().replace(b"\x66\xef", b"\x90\x90")

# mov dx, 0x3f8; mov al, "x"; out dx, al; jmp back to the out
CHATTY_KERNEL = PATIENT_KERNEL[:32] + bytes.fromhex("66baf803 b078 ee ebfd").ljust(
    len(PATIENT_KERNEL) - 32, b"\0"
)


@dataclass(frozen=True)
class Private:
    layout: private_libvirtd.Layout
    environ: dict[str, str]

    def connect(self) -> Hypervisor:
        layout = self.layout
        return private_libvirtd.connect(
            layout, lambda _: None, lambda: connect(layout.uri, pool_path=str(layout.pool))
        )

    def pids(self) -> list[str]:
        """The libvirtd processes that have this pid file on their command line."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0] == b"libvirtd" and os.fsencode(self.layout.libvirtd.pid_file) in words:
                found.append(process.name)
        return found


@pytest.fixture(scope="module")
def private() -> Iterator[Private]:
    folder = tempfile.mkdtemp(prefix="sft-", dir="/tmp")
    environ = {**os.environ, "SEVFORK_STATE_DIR": folder}
    started = Private(private_libvirtd.Layout.of(environ), environ)
    try:
        yield started
    finally:
        private_libvirtd.stop(started.layout)
        assert not started.layout.virtlogd.answers
        shutil.rmtree(folder)


def leave_nothing(connected: Hypervisor) -> None:
    for domain in connected.domains():
        connected.destroy(domain.uuid)
        connected.undefine(domain.uuid)
    for volume in connected.storage.volumes():
        connected.storage.delete(volume.name)
    connected.close()


@pytest.fixture
def hypervisor(private: Private) -> Iterator[Hypervisor]:
    connected = private.connect()
    yield connected
    leave_nothing(connected)


def upload(hypervisor: Hypervisor, name: str, data: bytes) -> str:
    made = hypervisor.storage.create(name, 0)
    assert list(hypervisor.storage.upload(name, [data], len(data)))[-1] == len(data)
    return made.path


def guest(hypervisor: Hypervisor, kernel: bytes, name: str = "tiny") -> GuestSpec:
    path = upload(hypervisor, f"{name}.kernel", kernel)
    metadata = Metadata(Technology.SIMULATED, Role.ROOT, Phase.READY, "tiny", "maximum")
    return GuestSpec(
        name=name,
        uuid=str(uuid.uuid4()),
        memory_mib=64,
        vcpus=1,
        accelerator=Accelerator.TCG,
        boot=Boot(path, path, path, "console=ttyS0"),
        mac=random_mac(),
        console_log=hypervisor.storage.path_of(f"{name}.log"),
        metadata=replace(metadata, volumes=(f"{name}.log",)),
    )


def running(hypervisor: Hypervisor, kernel: bytes = PATIENT_KERNEL) -> GuestSpec:
    spec = guest(hypervisor, kernel)
    hypervisor.define(domain_xml(spec))
    hypervisor.start(spec.uuid)
    return spec


def console(hypervisor: Hypervisor, spec: GuestSpec) -> bytes:
    volume = hypervisor.storage.find(spec.metadata.volumes[0])
    if volume is None:
        return b""
    return b"".join(hypervisor.storage.download(volume.name, volume.size_bytes))


def wait_for(what: str, holds: object, within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def test_two_commands_at_once_start_one_libvirtd(private: Private) -> None:
    private_libvirtd.stop(private.layout)
    command = [sys.executable, "-c", "from sevfork.cli.main import main; main()", "ls", "--json"]
    racing = [
        subprocess.Popen(command, env=private.environ, stdout=subprocess.PIPE) for _ in range(3)
    ]
    for each in racing:
        output, _ = each.communicate(timeout=120)
        assert each.returncode == 0
        assert b'"vms": []' in output
    assert len(private.pids()) == 1


def test_the_systems_directories_are_not_touched(private: Private, hypervisor: Hypervisor) -> None:
    (pid,) = private.pids()
    theirs, ours = (Path(f"/proc/{each}/mountinfo").read_text() for each in (pid, "self"))
    for covered in ("/etc/libvirt", "/run/libvirt", "/var/lib/libvirt", "/run/lock"):
        assert f" {covered} " in theirs
    assert str(private.layout.state) in theirs
    assert str(private.layout.state) not in ours


def test_a_guest_runs_and_its_console_is_read_through_libvirt(hypervisor: Hypervisor) -> None:
    spec = running(hypervisor, least_kernel())
    wait_for("the guest's words", lambda: b"Run /init" in console(hypervisor, spec))
    wait_for("its end", lambda: not hypervisor.find(spec.uuid).state.active)


def test_no_guest_fills_the_hosts_disk_through_the_log_daemon(
    hypervisor: Hypervisor,
) -> None:
    running(hypervisor, CHATTY_KERNEL)
    sizes = [0]

    def has_begun_anew() -> bool:
        logs = [each for each in hypervisor.storage.volumes() if each.name.startswith("tiny.log")]
        sizes.append(sum(each.size_bytes for each in logs))
        return sizes[-1] < sizes[-2]

    wait_for("the log to begin anew", has_begun_anew, within_s=120)
    assert LOG_LIMIT_BYTES / 2 < max(sizes) <= LOG_LIMIT_BYTES


def test_a_spec_survives_what_libvirt_makes_of_a_running_domain(hypervisor: Hypervisor) -> None:
    spec = running(hypervisor)
    assert spec_from_xml(hypervisor.xml(spec.uuid)) == spec


def test_the_channel_has_one_holder_and_can_be_opened_again(hypervisor: Hypervisor) -> None:
    spec = running(hypervisor)
    channel = hypervisor.open_channel(spec.uuid)
    with pytest.raises(ChannelBusy):
        hypervisor.open_channel(spec.uuid)
    assert channel.receive(0.05) == b""
    channel.close()
    again = hypervisor.open_channel(spec.uuid)
    hypervisor.destroy(spec.uuid)
    with pytest.raises(ChannelClosed):
        again.receive(10)
    again.close()


def test_a_channel_is_held_for_as_long_as_the_process_of_its_lock_lives(
    private: Private, hypervisor: Hypervisor
) -> None:
    spec = running(hypervisor)
    channel = hypervisor.open_channel(spec.uuid)
    (lock,) = (private.layout.run / "lock").glob(f"LCK..*-{spec.name}_*")
    channel.close()
    wait_for("the lock to be given back", lambda: not lock.exists())
    with subprocess.Popen(["sleep", "infinity"]) as holder:
        lock.write_text(f"{holder.pid}\n")
        with pytest.raises(ChannelBusy):
            hypervisor.open_channel(spec.uuid)
        holder.kill()
    hypervisor.open_channel(spec.uuid).close()


def test_calls_do_not_hang_while_a_channel_is_open(hypervisor: Hypervisor) -> None:
    spec = running(hypervisor)
    channel, started = hypervisor.open_channel(spec.uuid), time.monotonic()
    for _ in range(200):
        hypervisor.find(spec.uuid)
    channel.close()
    assert time.monotonic() - started < 10


def test_a_request_that_is_not_read_costs_no_libvirtd(
    private: Private, hypervisor: Hypervisor
) -> None:
    before, spec = private.pids(), running(hypervisor)
    channel = hypervisor.open_channel(spec.uuid)
    channel.send(bytes(MAX_LINE_SIZE), timeout_s=10)
    channel.close()
    hypervisor.destroy(spec.uuid)
    private.connect().close()
    assert private.pids() == before


def test_a_libvirtd_that_hangs_is_not_waited_for(
    private: Private, hypervisor: Hypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "OPEN_TIMEOUT_S", 0.5)
    (pid,) = map(int, private.pids())
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(HypervisorUnreachable, match="did not answer within"):
            connect(private.layout.uri)
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.skipif(
    libvirt.getVersion() >= 11_000_000,
    reason="libvirtd 11.3 dies, or loops for ever, when a guest ends that has not read what waits",
)
def test_a_guest_that_reads_nothing_does_not_hang_the_sender(hypervisor: Hypervisor) -> None:
    channel = hypervisor.open_channel(running(hypervisor).uuid)
    with pytest.raises(TimedOut):
        channel.send(bytes(64 * 1024 * 1024), timeout_s=2)
    channel.close()


def test_a_disk_is_plugged_in_and_the_link_pulled(hypervisor: Hypervisor) -> None:
    spec = running(hypervisor)
    sealed = hypervisor.storage.create("sealed", 1024 * 1024)
    hypervisor.attach_device(
        spec.uuid, disk_xml(sealed.path, "sf-0123456789abcdef", "vdb", readonly=False)
    )
    assert has_target(hypervisor.xml(spec.uuid), "vdb")
    for up in (False, True):
        hypervisor.set_link(spec.uuid, spec.mac, up=up)
        assert spec_from_xml(hypervisor.xml(spec.uuid)).link_up is up


@pytest.mark.parametrize(
    "port",
    [
        PublishedPort(28379, 6379),
        PublishedPort(28379, 6379, "127.0.0.2"),
        PublishedPort(28379, 53, transport=Transport.UDP),
    ],
    ids=str,
)
def test_a_port_is_published_once(hypervisor: Hypervisor, port: PublishedPort) -> None:
    spec = running(hypervisor)
    hypervisor.publish(spec.uuid, port)
    with pytest.raises(PortTaken):
        hypervisor.publish(spec.uuid, port)


def test_metadata_of_a_running_guest_is_replaced_for_good(hypervisor: Hypervisor) -> None:
    spec = running(hypervisor)
    changed = replace(spec.metadata, generation=7)
    hypervisor.set_metadata(spec.uuid, metadata_xml.write(changed))
    hypervisor.destroy(spec.uuid)
    assert metadata_xml.read(hypervisor.find(spec.uuid).metadata_xml or "") == changed


def test_a_guest_that_cannot_start_is_told_in_words(hypervisor: Hypervisor) -> None:
    spec = guest(hypervisor, PATIENT_KERNEL)
    hypervisor.define(domain_xml(spec))
    hypervisor.storage.delete("tiny.kernel")
    with pytest.raises((HostCannot, WrongState), match=r"tiny\.kernel"):
        hypervisor.start(spec.uuid)


def test_guests_survive_the_end_of_the_daemon(private: Private) -> None:
    first = private.connect()
    spec = running(first)
    before = first.find(spec.uuid)
    assert private_libvirtd.stop(private.layout)
    assert not private_libvirtd.stop(private.layout)
    assert private.layout.virtlogd.answers
    first.close()
    again = private.connect()
    assert again.find(spec.uuid) == before
    leave_nothing(again)


def test_a_daemon_that_was_killed_is_noticed_at_once_by_whoever_waits(private: Private) -> None:
    connected = private.connect()
    spec = running(connected)
    channel = connected.open_channel(spec.uuid)
    (pid,) = private.pids()
    threading.Timer(0.5, os.kill, (int(pid), signal.SIGKILL)).start()
    started = time.monotonic()
    with pytest.raises(HypervisorUnreachable):
        channel.receive(60)
    with pytest.raises(HypervisorUnreachable):
        channel.send(b"x")
    with pytest.raises(HypervisorUnreachable):
        connected.find(spec.uuid)
    channel.close()
    connected.close()
    assert time.monotonic() - started < 10
    leave_nothing(private.connect())


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_channel_that_is_closed_leaves_no_descriptor(private: Private) -> None:
    """A pool opens some for each child that it makes."""
    connected = private.connect()
    uuid = running(connected).uuid
    connected.open_channel(uuid).close()
    before = descriptors()
    for _ in range(4):
        connected.open_channel(uuid).close()
    for _ in Deadline.after(10).poll(0.1, "descriptors stay open"):
        if descriptors() <= before:
            break
    leave_nothing(connected)


def test_a_daemon_that_is_killed_is_noticed_while_an_agent_is_waited_for(
    private: Private,
) -> None:
    first = private.connect()
    spec = running(first)
    state = ProcessorState(bytes(48), bytes(32), bytes(32))
    described = replace(spec, metadata=replace(spec.metadata, processor=state))
    job = job_on(first, seconds=60)
    with open_agent(job, described) as agent:
        (pid,) = private.pids()
        os.kill(int(pid), signal.SIGKILL)
        killed = time.monotonic()
        with pytest.raises((HypervisorUnreachable, ChannelClosed)):
            agent.wait_for_agent(job.deadline)
    assert time.monotonic() - killed < 10
    first.close()
    leave_nothing(private.connect())
