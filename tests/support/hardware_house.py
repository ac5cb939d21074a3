"""A hypervisor in memory on a machine with SEV-SNP or TDX: the fake AMD and the fake Intel sign.

The agents, the use cases and the verifier are the real ones. What is fake is the processor's key,
and so the root that the measured policy pins.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from sevfork.agent.measured import Measured
from sevfork.agent.workload import Workload
from sevfork.attest.defaults import Floors
from sevfork.attest.evidence import Evidence
from sevfork.attest.guest_policy import GuestPolicy, guest_policy_toml
from sevfork.domain.launch_security import SnpLaunch, TdxLaunch
from sevfork.domain.spec import Accelerator
from sevfork.image.image import Image
from sevfork.lifecycle.fork import ForkOutcome, ForkRequest, plan_fork, run_fork
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.up import UpRequest, plan_up, run_up
from sevfork.technology import Technology
from sevfork.verifier.sources import Sources
from tests.support import fake_amd
from tests.support.fake_amd import Part, revocation_list
from tests.support.fake_guests import STATE, WORKLOAD, FakeGuest, FakeHouse
from tests.support.fake_hypervisor import SNP_CAPABILITIES
from tests.support.fake_intel import FakeIntel
from tests.support.image_factory import manifest, write_image
from tests.support.jobs import job_on
from tests.support.vendor_services import Page, Web, amd_pages, intel_pages

BUILT = datetime(2026, 1, 1, tzinfo=UTC)
LASTING = {"nextUpdate": "2099-01-01T00:00:00Z"}
TDX_CAPABILITIES = """<domainCapabilities>
  <os supported='yes'><loader supported='yes'>
    <value>/usr/share/ovmf/OVMF.inteltdx.fd</value>
  </loader></os>
  <features><launchSecurity supported='yes'>
    <enum name='sectype'><value>tdx</value></enum>
  </launchSecurity></features>
</domainCapabilities>"""
_ALIAS_CHECK_COMPLETE = {0x40: b"\x20"}
_SEPT_VE_DISABLE = {"td_attributes": (1 << 28).to_bytes(8, "little")}


class Machine(Protocol):
    """One machine: what its processor signs, and what its vendor publishes of it."""

    def with_certificates(self) -> Machine:
        """The same, whose kernel has them beside a report, so that nobody has to bring them."""

    @property
    def technology(self) -> Technology: ...

    @property
    def chip(self) -> str:
        """As a policy lists it."""

    @property
    def roots(self) -> list[str]: ...

    @property
    def pages(self) -> dict[str, Page]: ...

    def evidence(self, report_data: bytes, config_hash: bytes, report_id: bytes) -> Evidence: ...


@dataclass(frozen=True)
class AmdMachine:
    """A Milan."""

    part: Part = Part(crl=revocation_list(), patches=_ALIAS_CHECK_COMPLETE)
    has_certificates: bool = False

    @property
    def technology(self) -> Technology:
        return Technology.SEV_SNP

    def with_certificates(self) -> AmdMachine:
        return replace(self, has_certificates=True)

    def but(self, **changes: object) -> AmdMachine:
        return replace(self, part=replace(self.part, **changes))  # type: ignore[arg-type]

    @property
    def chip(self) -> str:
        return self.part.own_chip_id.hex()

    @property
    def roots(self) -> list[str]:
        return fake_amd.roots()

    @property
    def pages(self) -> dict[str, Page]:
        return amd_pages(self.part)

    def evidence(self, report_data: bytes, config_hash: bytes, report_id: bytes) -> Evidence:
        launched = {0x50: report_data, 0xC0: config_hash, 0x140: report_id}
        report = replace(self.part, patches={**launched, **self.part.patches}).report()
        certificates = self.part.certificates().encode() if self.has_certificates else b""
        return Evidence(self.technology, report, certificates)


@dataclass(frozen=True)
class IntelMachine:
    """A platform with TDX."""

    intel: FakeIntel = FakeIntel(
        tcb=LASTING, qe=LASTING, crl_until=datetime(2099, 1, 1, tzinfo=UTC), td=_SEPT_VE_DISABLE
    )
    has_certificates: bool = False

    @property
    def technology(self) -> Technology:
        return Technology.TDX

    def with_certificates(self) -> IntelMachine:
        return replace(self, has_certificates=True)

    def but(self, **changes: object) -> IntelMachine:
        return replace(self, intel=self.intel.but(**changes))

    @property
    def chip(self) -> str:
        return self.intel.ppid.hex()

    @property
    def roots(self) -> list[str]:
        return [self.intel.root_sha256]

    @property
    def pages(self) -> dict[str, Page]:
        return intel_pages(self.intel)

    def evidence(self, report_data: bytes, config_hash: bytes, report_id: bytes) -> Evidence:
        launched = {"report_data": report_data, "mrconfigid": config_hash}
        quote = self.intel.but(td={**launched, **self.intel.td}).quote()
        certificates = self.intel.collateral().encode() if self.has_certificates else b""
        return Evidence(self.technology, quote, certificates)


class HardwareGuest(FakeGuest):
    """Signed for by its house's machine; ``asked`` counts how often, ``report_id`` is its own."""

    def __init__(self, house: HardwareHouse, uuid: str) -> None:
        self._house, self.asked, self.report_id = house, 0, os.urandom(32)
        super().__init__(house, uuid)

    def evidence(self, report_data: bytes) -> Evidence:
        self.asked += 1
        signer, report_id = self._house.signs(self)
        return signer.evidence(report_data, self._signed_config, report_id)

    @property
    def _signed_config(self) -> bytes:
        hardware = self.spec.hardware
        assert isinstance(hardware, SnpLaunch | TdxLaunch)
        return hardware.host_data if isinstance(hardware, SnpLaunch) else hardware.mr_config_id


class HardwareHouse(FakeHouse):
    """One machine with the vendor's services in reach; ``signs`` may be replaced by a test.

    It says who signs for a guest, and with which report id.
    """

    def __init__(self, folder: Path, machine: Machine, policy: GuestPolicy | None = None) -> None:
        policy = policy or policy_for(machine)
        measured = Measured(machine.technology, policy, Workload.load(WORKLOAD))
        super().__init__(folder, measured, kvm_console=b"")
        self.folder, self.machine, self.web = folder, machine, Web(machine.pages)
        self.signs: Callable[[HardwareGuest], tuple[Machine, bytes]] = self.honestly

    def honestly(self, guest: HardwareGuest) -> tuple[Machine, bytes]:
        return self.machine, guest.report_id

    def new_guest(self, uuid: str) -> FakeGuest:
        return HardwareGuest(self, uuid)

    def domain_capabilities(self, accelerator: Accelerator) -> str | None:
        snp = self.machine.technology is Technology.SEV_SNP
        return SNP_CAPABILITIES if snp else TDX_CAPABILITIES

    def sources(self, *, anew: bool = False) -> Sources:
        environ = {"XDG_CACHE_HOME": str(self.folder / "cache")}
        return Sources.of(environ, fetcher=self.web, deadline_s=0.0, anew=anew)

    def job(self, *, anew: bool = False) -> Job:
        return job_on(self, gather=self.sources(anew=anew).gather)

    def up(self, job: Job | None = None) -> HardwareGuest:
        """A running root, 'web'."""
        image = Image.load(self.image())
        spec = run_up(job or self.job(), plan_up(self, UpRequest("web", image))).spec
        guest = self.guests[spec.uuid]
        guest.state = STATE
        assert isinstance(guest, HardwareGuest)
        return guest

    def image(self) -> Path:
        """The folder of an image for this machine."""
        technology = self.machine.technology.value
        described = {**manifest(), "technology": technology, "launch_digests": {}}
        return write_image(self.folder / "image", described)

    def fork(self, job: Job | None = None, count: int = 1) -> ForkOutcome:
        return run_fork(job or self.job(), plan_fork(self, ForkRequest("web", count=count)))


def policy_for(machine: Machine, chips: list[str] | None = None) -> GuestPolicy:
    """An image's policy as the builder makes it, for anyone to fork and with a current list."""
    floors = Floors(crl="required", intel_crl_number=1, tcb_evaluation_number=18, alias_check=True)
    text = guest_policy_toml(machine.technology, "anyone", machine.roots, BUILT, floors)
    if chips is not None:
        listed = ", ".join(f'"{chip}"' for chip in chips)
        text = text.replace('chip = "same"', f"chip = [{listed}]")
    return GuestPolicy.decode(text.encode())
