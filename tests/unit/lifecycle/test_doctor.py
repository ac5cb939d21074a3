"""What ``doctor`` concludes from what it sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sevfork.attest.vendor_facts import vendor_facts
from sevfork.domain.launch_security import security_types
from sevfork.domain.spec import Accelerator
from sevfork.domain.xml import domain_xml
from sevfork.host.kvm_probe import least_kernel
from sevfork.lifecycle.doctor import examine, kernel_lacks
from sevfork.lifecycle.finding import Finding, Standing
from sevfork.technology import Technology
from tests.support.fake_hypervisor import FakeHypervisor
from tests.support.guest_specs import ROOT

WITH_SNP = """<domainCapabilities>
<os supported='yes'><loader supported='yes'>
  <value>/usr/share/ovmf/OVMF.amdsev.fd</value>
</loader></os>
<features>
  <sev supported='yes'/>
  <launchSecurity supported='yes'>
    <enum name='sectype'><value>sev</value><value>sev-snp</value></enum>
  </launchSecurity>
</features></domainCapabilities>"""


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def finding(hypervisor: FakeHypervisor, subject: str) -> Finding:
    return next(each for each in examine(lambda: hypervisor).findings if each.subject == subject)


def test_launch_security_is_read_from_the_capabilities() -> None:
    assert security_types(WITH_SNP) == {"sev", "sev-snp"}


@pytest.mark.parametrize(
    "capabilities",
    [
        None,
        "<domainCapabilities><features><sev supported='yes'/></features></domainCapabilities>",
        WITH_SNP.replace("launchSecurity supported='yes'", "launchSecurity supported='no'"),
    ],
)
def test_absence_of_launch_security_means_no(capabilities: str | None) -> None:
    assert security_types(capabilities) == frozenset()


def test_kvm_that_does_not_run_a_guest_limits_and_does_not_prevent() -> None:
    found = finding(FakeHypervisor(), "KVM")
    assert found.verdict is Standing.LIMITED
    assert "KVM is broken" in found.found
    assert "software emulation" in (found.remedy or "")


def test_kvm_that_runs_a_guest_is_fine() -> None:
    hypervisor = FakeHypervisor(kvm_console=b"Run /init")
    assert finding(hypervisor, "KVM").verdict is Standing.OK
    assert not hypervisor.defined
    assert not hypervisor.storage.files


def test_what_was_tried_is_said_while_there_is_no_image() -> None:
    assert "test kernel" in finding(FakeHypervisor(kvm_console=b"Run /init"), "KVM").found
    assert "test kernel" in finding(FakeHypervisor(), "KVM").found


def test_once_a_vm_is_there_its_image_is_what_kvm_is_tried_with() -> None:
    hypervisor = FakeHypervisor()
    hypervisor.define(domain_xml(ROOT))
    found = finding(hypervisor, "KVM")
    assert found.verdict is Standing.LIMITED
    assert f"the kernel of image '{ROOT.metadata.image}'" in found.found
    assert [each.name for each in hypervisor.domains()] == [ROOT.name]


def test_neither_kvm_nor_emulation_means_that_nothing_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hypervisor = FakeHypervisor()
    monkeypatch.setattr(hypervisor, "domain_capabilities", lambda _accelerator: None)
    assert not examine(lambda: hypervisor).runs_guests


def test_old_versions_are_named_with_what_is_needed() -> None:
    found = finding(FakeHypervisor(), "AMD SEV-SNP")
    assert "libvirt 9.0, needs 10.10" in found.found
    assert "QEMU 7.2, needs 9.1" in found.found
    assert found.verdict is Standing.LIMITED


WITH_TDX = WITH_SNP.replace("sev-snp", "tdx").replace("amdsev", "inteltdx")


def on_hardware(
    monkeypatch: pytest.MonkeyPatch, capabilities: str, libvirt: tuple[int, int, int] = (11, 10, 0)
) -> FakeHypervisor:
    """A libvirt host that is new enough, and offers what is given."""
    hypervisor = FakeHypervisor()
    facts = replace(hypervisor.facts(), libvirt=libvirt, qemu=(10, 1, 0))
    monkeypatch.setattr(hypervisor, "facts", lambda: facts)
    monkeypatch.setattr(
        hypervisor,
        "domain_capabilities",
        lambda accelerator: capabilities if accelerator is Accelerator.KVM else "<x/>",
    )
    return hypervisor


def test_hardware_that_libvirt_offers_is_still_said_to_be_untried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hypervisor = on_hardware(monkeypatch, WITH_SNP)
    found = finding(hypervisor, "AMD SEV-SNP")
    assert "never run on such hardware" in found.found
    assert "OVMF.amdsev.fd" in found.found
    assert "libvirt does not offer it" in finding(hypervisor, "Intel TDX").found


def test_what_can_be_run_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = (Technology.SIMULATED,)
    assert examine(FakeHypervisor).technologies == simulated
    for capabilities, technology in (
        (WITH_SNP, Technology.SEV_SNP),
        (WITH_TDX, Technology.TDX),
    ):
        hypervisor = on_hardware(monkeypatch, capabilities)
        report = examine(lambda: hypervisor)  # noqa: B023
        assert report.technologies == (*simulated, technology)
        assert list(report.firmware) == [technology]
        assert report.firmware[technology] in capabilities


def test_a_libvirt_without_versioned_cpu_models_does_not_do_for_snp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hypervisor = on_hardware(monkeypatch, WITH_SNP, libvirt=(10, 9, 0))
    assert finding(hypervisor, "AMD SEV-SNP").found == "libvirt 10.9, needs 10.10"
    assert Technology.SEV_SNP not in examine(lambda: hypervisor).technologies


@pytest.mark.parametrize(
    ("release", "lacks"),
    [
        ("6.1.0-42-amd64", "Linux 6.1, needs 6.11"),
        ("6.12.117+deb13-amd64", "the kernel has it not enabled"),
        ("7.0.0-3-generic", "the kernel has it not enabled"),
        ("custom", "the kernel has it not enabled"),
    ],
)
def test_a_kernel_has_to_be_new_enough_and_have_it_enabled(release: str, lacks: str) -> None:
    need = vendor_facts().requirements_of(Technology.SEV_SNP)["Linux"]
    assert kernel_lacks(need, release, enabled=False) == lacks
    enabled = kernel_lacks(need, release, enabled=True)
    assert enabled == (lacks if "needs" in lacks else None)


def test_hardware_without_firmware_is_lacking_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hypervisor = on_hardware(monkeypatch, WITH_SNP.replace("amdsev", "plain"))
    assert "no firmware for 'sev-snp': apt install" in finding(hypervisor, "AMD SEV-SNP").found
    assert Technology.SEV_SNP not in examine(lambda: hypervisor).technologies


def test_firmware_with_secure_boot_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    with_keys = WITH_TDX.replace("inteltdx.fd", "inteltdx.ms.fd")
    found = finding(on_hardware(monkeypatch, with_keys), "Intel TDX")
    assert "Secure Boot" in (found.remedy or "")
    assert finding(on_hardware(monkeypatch, WITH_TDX), "Intel TDX").remedy is None


def test_the_tcb_of_another_machine_is_not_compared() -> None:
    assert "another machine" in finding(FakeHypervisor(), "minimum TCB").found


def test_the_least_kernel_has_a_multiboot_header() -> None:
    kernel = least_kernel()
    magic, flags, checksum, header, load, end = (
        int.from_bytes(kernel[at : at + 4], "little") for at in range(0, 24, 4)
    )
    assert magic == 0x1BADB002
    assert (magic + flags + checksum) % 2**32 == 0
    assert header == load
    assert end - load == len(kernel)


@pytest.mark.parametrize("program", ["skopeo", "umoci"])
def test_what_only_container_images_need_is_named_and_prevents_nothing(
    monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    found = finding(FakeHypervisor(), f"{program} (guest build --oci, optional)")
    assert (found.verdict, found.remedy) == (Standing.LIMITED, f"apt install {program}")
