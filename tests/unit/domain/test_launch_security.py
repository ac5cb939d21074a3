"""What a domain of SEV-SNP or TDX needs, and hosts that do not offer it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from sevfork.domain.elements import E, parse, to_text
from sevfork.domain.launch_security import (
    SnpLaunch,
    TdxLaunch,
    hardware_launch,
    read,
    rom_firmware,
    wants_signed_kernels,
)
from sevfork.errors import HostCannot, WrongState
from sevfork.handshake.launch import LaunchConfig, Role, launch_config_hash
from sevfork.technology import Technology

CAPABILITIES = """<domainCapabilities>
  <os supported='yes'><loader supported='yes'>
    <value>/usr/share/OVMF/OVMF_CODE_4M.fd</value>
    <value>/usr/share/ovmf/OVMF.amdsev.fd</value>
    <value>/usr/share/ovmf/OVMF.inteltdx.ms.fd</value>
  </loader></os>
  <features>
    <sev supported='yes'><cbitpos>51</cbitpos><reducedPhysBits>1</reducedPhysBits></sev>
    <tdx supported='yes'/>
    <launchSecurity supported='yes'>
      <enum name='sectype'><value>sev-snp</value><value>tdx</value></enum>
    </launchSecurity>
  </features>
</domainCapabilities>"""

HASHES = {
    technology: launch_config_hash(technology, LaunchConfig(Role.ROOT).encode())
    for technology in (Technology.SEV_SNP, Technology.TDX)
}


def snp() -> SnpLaunch | TdxLaunch:
    return hardware_launch(Technology.SEV_SNP, CAPABILITIES, HASHES[Technology.SEV_SNP])


def tdx() -> SnpLaunch | TdxLaunch:
    return hardware_launch(Technology.TDX, CAPABILITIES, HASHES[Technology.TDX])


def test_snp_takes_everything_from_the_hosts_capabilities() -> None:
    assert snp() == SnpLaunch(
        "/usr/share/ovmf/OVMF.amdsev.fd", 51, 1, HASHES[Technology.SEV_SNP], 0x30000
    )


def test_tdx_gets_its_own_firmware_and_the_launch_config_hash() -> None:
    assert tdx() == TdxLaunch("/usr/share/ovmf/OVMF.inteltdx.ms.fd", HASHES[Technology.TDX])


def test_firmware_without_secure_boot_is_preferred() -> None:
    signed = "<value>/usr/share/ovmf/OVMF.inteltdx.ms.fd</value>"
    both = CAPABILITIES.replace(signed, f"{signed}<value>/usr/share/ovmf/OVMF.inteltdx.fd</value>")
    assert rom_firmware(Technology.TDX, both) == "/usr/share/ovmf/OVMF.inteltdx.fd"
    assert rom_firmware(Technology.TDX, CAPABILITIES) == "/usr/share/ovmf/OVMF.inteltdx.ms.fd"


@pytest.mark.parametrize(
    ("path", "signed"),
    [
        ("/usr/share/ovmf/OVMF.inteltdx.ms.fd", True),
        ("/usr/share/edk2/ovmf/OVMF.inteltdx.secboot.fd", True),
        ("/usr/share/edk2/ovmf/OVMF.inteltdx.fd", False),
        ("/opt/x.ms.d/OVMF.amdsev.fd", False),
    ],
)
def test_secure_boot_shows_in_the_files_name(path: str, signed: bool) -> None:
    assert wants_signed_kernels(path) == signed


@pytest.mark.parametrize("make", [snp, tdx])
def test_a_child_is_launched_the_same_way_for_another_config(
    make: Callable[[], SnpLaunch | TdxLaunch],
) -> None:
    parent = make()
    snp = isinstance(parent, SnpLaunch)
    child = parent.with_config_hash(b"\xcc" * (32 if snp else 48))
    assert child != parent
    own = HASHES[Technology.SEV_SNP if snp else Technology.TDX]
    assert child.with_config_hash(own) == parent


@pytest.mark.parametrize("make", [snp, tdx])
def test_it_is_read_back_from_a_domain(make: Callable[[], SnpLaunch | TdxLaunch]) -> None:
    launch = make()
    domain = E.domain(E.os(launch.loader()), launch.launch_security())
    assert read(parse(to_text(domain))) == launch


def test_a_plain_domain_has_none() -> None:
    assert read(parse("<domain/>")) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('type="sev-snp"', 'type="sev"'),
        ("<hostData>", "<hostData>AA"),
        ("<cbitpos>51", "<cbitpos>many"),
        ("<loader", "<lader"),
        ("<policy>0x00030000</policy>", ""),
    ],
)
def test_launch_security_that_was_edited_is_refused(old: str, new: str) -> None:
    text = to_text(E.domain(E.os(snp().loader()), snp().launch_security()))
    assert old in text
    edited = text.replace(old, new)
    if "lader" in new:
        edited = edited.replace("</loader>", "</lader>")
    with pytest.raises(WrongState):
        read(parse(edited))


@pytest.mark.parametrize("technology", [Technology.SEV_SNP, Technology.TDX])
@pytest.mark.parametrize(
    "capabilities",
    [
        None,
        "<domainCapabilities/>",
        CAPABILITIES.replace("<launchSecurity supported='yes'>", "<launchSecurity supported='no'>"),
        CAPABILITIES.replace("amdsev", "plain").replace("inteltdx", "plain"),
    ],
)
def test_a_host_that_lacks_something_is_refused_in_words(
    technology: Technology, capabilities: str | None
) -> None:
    with pytest.raises(HostCannot) as caught:
        hardware_launch(technology, capabilities, HASHES[technology])
    assert caught.value.hint


def test_a_host_that_does_not_say_where_the_c_bit_is_is_refused() -> None:
    with pytest.raises(HostCannot, match="cbitpos"):
        hardware_launch(
            Technology.SEV_SNP, CAPABILITIES.replace("<cbitpos>51</cbitpos>", ""), b"\0" * 32
        )


def test_debugging_is_off_and_the_kernel_is_measured() -> None:
    element = snp().launch_security()
    assert int(element.findtext("policy") or "", 0) & (1 << 19) == 0
    assert element.get("kernelHashes") == "yes"
    assert int(tdx().launch_security().findtext("policy") or "", 0) & 1 == 0


def test_firmware_is_rom_and_never_writable_flash() -> None:
    assert snp().loader().get("type") == tdx().loader().get("type") == "rom"


def test_policies_differ_when_asked() -> None:
    launch = snp()
    assert isinstance(launch, SnpLaunch)
    assert replace(launch, policy=0xB0000).launch_security().findtext("policy") == "0x000b0000"
