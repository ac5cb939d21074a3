"""``up``, ``rm`` and what killed commands leave, on a hypervisor in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sevfork.domain import metadata_xml
from sevfork.domain.disks import disk_xml, has_target
from sevfork.domain.launch_security import SnpLaunch
from sevfork.domain.metadata import Maker, Metadata, Phase
from sevfork.domain.spec import Accelerator, GuestSpec
from sevfork.domain.xml import domain_xml
from sevfork.errors import (
    ChildLeftBehind,
    HostCannot,
    InsecureRefused,
    NameTaken,
    NotAuthentic,
    RefusedByGuest,
    SevforkError,
    UsageError,
    WrongState,
)
from sevfork.handshake import owner_digest
from sevfork.handshake.launch import LaunchConfig, Role, launch_config_hash
from sevfork.host import image_volumes, maker
from sevfork.host.hypervisor import PortTaken
from sevfork.image.image import Image
from sevfork.lifecycle import ports
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.ports import PortWish
from sevfork.lifecycle.reap import reap
from sevfork.lifecycle.remove import plan_remove, remove
from sevfork.lifecycle.up import UpOutcome, UpRequest, plan_up, run_up
from sevfork.technology import Technology
from tests.support.fake_hypervisor import SNP_CAPABILITIES, FakeHypervisor
from tests.support.image_factory import CONTENTS, manifest, write_image
from tests.support.jobs import job_on


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image.load(write_image(tmp_path / "image"))


@pytest.fixture
def hypervisor() -> FakeHypervisor:
    return FakeHypervisor()


def answers(job: Job, spec: GuestSpec) -> float:
    """The agent's conversation goes well."""
    return 1.5


def failing(error: BaseException) -> Callable[..., float]:
    def configure(job: Job, spec: GuestSpec) -> float:
        raise error

    return configure


def start(
    hypervisor: FakeHypervisor, image: Image, name: str = "web", **wishes: object
) -> UpOutcome:
    request = replace(UpRequest(name, image), **wishes)  # type: ignore[arg-type]
    return run_up(job_on(hypervisor), plan_up(hypervisor, request), configure=answers)


def metadata_of(hypervisor: FakeHypervisor, name: str) -> Metadata:
    found = metadata_xml.from_domain(hypervisor.xml(hypervisor.find(name).uuid))
    assert found is not None
    return found


def test_up_starts_a_vm_that_is_ready_and_knows_what_it_is(
    hypervisor: FakeHypervisor, image: Image
) -> None:
    outcome = start(hypervisor, image, publish=(PortWish(16379, 6379),))
    metadata = metadata_of(hypervisor, "web")
    assert (metadata.phase, metadata.maker) == (Phase.READY, None)
    assert hypervisor.published == {16379: outcome.spec.uuid}
    assert metadata.processor is not None
    assert metadata.processor.measurement.hex() == image.launch_digests[1]
    assert outcome.boot_s == 1.5


def test_up_launches_a_root_that_names_its_owner(hypervisor: FakeHypervisor, image: Image) -> None:
    owner = owner_digest(b"o" * 32)
    start(hypervisor, image, owner=owner)
    metadata = metadata_of(hypervisor, "web")
    config = LaunchConfig(Role.ROOT, owner).encode()
    assert metadata.owner == owner
    assert metadata.processor is not None
    assert metadata.processor.host_data == launch_config_hash(Technology.SIMULATED, config)


def test_a_port_of_sevforks_choice_is_a_free_one(hypervisor: FakeHypervisor, image: Image) -> None:
    hypervisor.published = {port: "x" for port in ports.CHOSEN_PORTS if port % 2}
    outcome = start(hypervisor, image, publish=(PortWish(None, 6379),))
    assert outcome.spec.metadata.ports[0].host % 2 == 0


def test_kvm_is_taken_only_when_it_runs_the_images_kernel(image: Image) -> None:
    for console, wanted in (
        (b"[ 0.9] Run /init as init process", Accelerator.KVM),
        (None, Accelerator.TCG),
    ):
        hypervisor = FakeHypervisor(kvm_console=console)
        hypervisor.uri = f"fake:///{wanted.value}"  # answers are kept by host
        spec = start(hypervisor, image).spec
        assert (spec.accelerator, spec.vcpus) == (wanted, wanted.default_vcpus)
        assert [domain.name for domain in hypervisor.domains()] == ["web"]


def test_the_probe_for_kvm_is_made_once(image: Image) -> None:
    hypervisor = FakeHypervisor(kvm_console=b"Run /init")
    start(hypervisor, image)
    start(hypervisor, image, "web2")
    assert hypervisor.starts == 3


def test_kvm_that_was_asked_for_and_does_not_work_is_an_error(
    hypervisor: FakeHypervisor, image: Image
) -> None:
    with pytest.raises(HostCannot, match="KVM is broken"):
        start(hypervisor, image, accelerator=Accelerator.KVM)
    assert not hypervisor.defined
    assert not hypervisor.storage.files


@pytest.mark.parametrize("error", [RefusedByGuest("no"), KeyboardInterrupt(), RuntimeError("bug")])
def test_whatever_fails_nothing_is_left(
    hypervisor: FakeHypervisor, image: Image, error: BaseException
) -> None:
    plan = plan_up(hypervisor, UpRequest("web", image))
    with pytest.raises(type(error)):
        run_up(job_on(hypervisor), plan, configure=failing(error))
    assert not hypervisor.defined
    assert not hypervisor.storage.files


def test_a_guest_that_failed_leaves_its_serial_log(
    hypervisor: FakeHypervisor, image: Image, tmp_path: Path
) -> None:
    plan = plan_up(hypervisor, UpRequest("web", image))
    hypervisor.storage.files[plan.spec.metadata.volumes[0]] = bytearray(b"Kernel panic")
    with pytest.raises(RefusedByGuest) as caught:
        run_up(job_on(hypervisor), plan, configure=failing(RefusedByGuest("no", hint="look")))
    log = tmp_path / "cache/sevfork/failed/web.log"
    assert caught.value.hint == f"look; the guest's serial log: '{log}'"
    assert log.read_bytes() == b"Kernel panic"


def test_what_cannot_be_removed_again_is_told(
    hypervisor: FakeHypervisor, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(_which: object) -> None:
        raise SevforkError("stuck")

    monkeypatch.setattr(hypervisor, "domain_capabilities", lambda _accelerator: None)
    monkeypatch.setattr(hypervisor, "undefine", cannot)
    monkeypatch.setattr(image_volumes, "delete_unused", cannot)
    plan = plan_up(hypervisor, UpRequest("web", image))
    with pytest.raises(ChildLeftBehind, match="stuck") as caught:
        run_up(job_on(hypervisor), plan, configure=failing(RefusedByGuest("no")))
    assert caught.value.hint == "sevfork rm 'web'"


def test_a_name_that_is_taken_is_refused_and_replaced_when_asked(
    hypervisor: FakeHypervisor, image: Image
) -> None:
    first = start(hypervisor, image).spec.uuid
    with pytest.raises(NameTaken):
        start(hypervisor, image)
    assert start(hypervisor, image, replace=True).spec.uuid != first
    assert len(hypervisor.defined) == 1


def test_somebody_elses_vm_is_never_replaced(hypervisor: FakeHypervisor, image: Image) -> None:
    hypervisor.add_foreign("web")
    with pytest.raises(InsecureRefused):
        plan_up(hypervisor, UpRequest("web", image, replace=True))


def test_planning_changes_nothing(hypervisor: FakeHypervisor, image: Image) -> None:
    plan = plan_up(hypervisor, UpRequest("web", image))
    assert domain_xml(plan.spec)
    assert not hypervisor.defined
    assert not hypervisor.storage.files


def test_a_vm_that_does_not_fit_into_memory_is_refused(image: Image) -> None:
    with pytest.raises(HostCannot, match="512 MiB free"):
        plan_up(FakeHypervisor(free_memory_mib=512), UpRequest("web", image))


def test_a_bad_name_is_refused(hypervisor: FakeHypervisor, image: Image) -> None:
    with pytest.raises(UsageError):
        plan_up(hypervisor, UpRequest("../web", image))


def test_a_port_that_is_taken_takes_the_vm_back(hypervisor: FakeHypervisor, image: Image) -> None:
    hypervisor.published[16379] = "other"
    with pytest.raises(PortTaken):
        start(hypervisor, image, publish=(PortWish(16379, 6379),))
    assert not hypervisor.defined


def hardware_image(tmp_path: Path) -> Image:
    described = {**manifest(), "technology": "sev-snp", "launch_digests": {}}
    return Image.load(write_image(tmp_path / "snp", described))


def test_an_image_for_hardware_is_refused_where_libvirt_does_not_offer_it(
    hypervisor: FakeHypervisor, tmp_path: Path
) -> None:
    with pytest.raises(HostCannot, match="does not offer 'sev-snp'"):
        plan_up(hypervisor, UpRequest("web", hardware_image(tmp_path)))
    request = UpRequest("web", hardware_image(tmp_path), accelerator=Accelerator.TCG)
    with pytest.raises(UsageError, match="KVM only"):
        plan_up(hypervisor, request)


def test_a_vm_for_hardware_names_its_launch_config_to_the_processor(
    hypervisor: FakeHypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypervisor, "domain_capabilities", lambda _accelerator: SNP_CAPABILITIES)
    plan = plan_up(hypervisor, UpRequest("web", hardware_image(tmp_path)))
    hardware = plan.spec.hardware
    assert hardware is not None
    assert isinstance(hardware, SnpLaunch)
    config = LaunchConfig(Role.ROOT).encode()
    assert hardware.host_data == launch_config_hash(Technology.SEV_SNP, config)
    assert plan.spec.accelerator is Accelerator.KVM
    assert plan.spec.metadata.processor is None


def test_a_launch_that_the_manifest_does_not_promise_is_refused(
    hypervisor: FakeHypervisor, tmp_path: Path
) -> None:
    described = {**manifest(), "kernel_cmdline": "console=ttyS0 init=/bin/sh"}
    changed = Image.load(write_image(tmp_path / "changed", described))
    with pytest.raises(NotAuthentic, match="launch digest"):
        start(hypervisor, changed)
    assert not hypervisor.defined


def test_rm_removes_a_vm_its_log_and_the_images_that_nobody_boots(
    hypervisor: FakeHypervisor, image: Image
) -> None:
    one, two = start(hypervisor, image).spec, start(hypervisor, image, "two").spec
    for spec in (one, two):
        hypervisor.storage.files[spec.metadata.volumes[0]] = bytearray(b"log")
    remove(hypervisor, plan_remove(hypervisor, ["web"]))
    assert set(hypervisor.defined) == {two.uuid}
    assert len(hypervisor.storage.files) == len(CONTENTS) + 1
    remove(hypervisor, plan_remove(hypervisor, ["two", two.uuid]))
    assert not hypervisor.defined
    assert not hypervisor.storage.files


def test_rm_touches_nothing_when_one_name_is_unknown_or_somebody_elses(
    hypervisor: FakeHypervisor, image: Image
) -> None:
    start(hypervisor, image)
    hypervisor.add_foreign("theirs")
    for other in ("nonsuch", "theirs"):
        with pytest.raises(WrongState):
            plan_remove(hypervisor, ["web", other])
    assert len(hypervisor.defined) == 2


def half_made(hypervisor: FakeHypervisor, image: Image, by: Maker) -> GuestSpec:
    """As a killed `up` leaves it."""
    plan = plan_up(hypervisor, UpRequest("half", image))
    spec = replace(plan.spec, metadata=replace(plan.spec.metadata, maker=by))
    hypervisor.define(domain_xml(spec))
    hypervisor.start(spec.uuid)
    hypervisor.storage.files[spec.metadata.volumes[0]] = bytearray(b"log")
    return spec


def test_a_half_made_vm_of_a_dead_command_is_removed_by_the_next(
    hypervisor: FakeHypervisor, image: Image
) -> None:
    start(hypervisor, image)
    half_made(hypervisor, image, replace(maker.this_process(), start=1))
    said: list[str] = []
    reap(hypervisor, said.append)
    assert [domain.name for domain in hypervisor.domains()] == ["web"]
    assert len(hypervisor.storage.files) == len(CONTENTS)
    assert said == ["removing 'half': the command that made it was killed"]


@pytest.mark.parametrize("host", [None, "elsewhere pid:[1]"])
def test_a_vm_that_is_being_made_is_left_alone(
    hypervisor: FakeHypervisor, image: Image, host: str | None
) -> None:
    me = maker.this_process()
    by = me if host is None else replace(me, host=host, pid=2**22 + 1)
    half_made(hypervisor, image, by)
    reap(hypervisor, pytest.fail)
    assert len(hypervisor.defined) == 1


def test_a_sealed_volume_of_a_dead_command_is_unplugged_and_deleted(
    hypervisor: FakeHypervisor, image: Image
) -> None:
    dead, live = f"sf-12.{maker.tag()}0.sealed", f"sf-34.{maker.tag()}.sealed"
    uuid = start(hypervisor, image).spec.uuid
    for name, target in ((dead, "vdb"), (live, "vdc")):
        hypervisor.storage.files[name] = bytearray(b"ciphertext")
        xml = disk_xml(f"/pool/{name}", f"sf-{target}", target, readonly=False)
        hypervisor.attach_device(uuid, xml)
    said: list[str] = []
    reap(hypervisor, said.append)
    assert dead not in hypervisor.storage.files
    assert live in hypervisor.storage.files
    assert not has_target(hypervisor.xml(uuid), "vdb")
    assert has_target(hypervisor.xml(uuid), "vdc")
    assert said == [f"deleting volume '{dead}': the command that made it has ended"]


def test_a_vm_whose_metadata_cannot_be_read_is_left_alone_but_can_be_removed(
    hypervisor: FakeHypervisor, image: Image
) -> None:
    spec = start(hypervisor, image).spec
    xml, state = hypervisor.defined[spec.uuid]
    hypervisor.defined[spec.uuid] = (xml.replace('phase="ready"', 'phase="later"'), state)
    reap(hypervisor, pytest.fail)
    remove(hypervisor, plan_remove(hypervisor, ["web"]))
    assert not hypervisor.defined
