"""Domains of every kind, as plain data."""

from __future__ import annotations

from dataclasses import replace

from sevfork.domain.launch_security import SnpLaunch, TdxLaunch
from sevfork.domain.metadata import Maker, Metadata, Phase, ProcessorState, PublishedPort
from sevfork.domain.spec import Accelerator, Boot, GuestSpec, child_spec
from sevfork.handshake.launch import Role
from sevfork.technology import Technology

METADATA = Metadata(
    technology=Technology.SIMULATED,
    role=Role.ROOT,
    phase=Phase.READY,
    image="redis",
    cpu_model="maximum",
    workload_ports=(6379,),
    ports=(PublishedPort(16379, 6379),),
    volumes=("web-11111111.log",),
    processor=ProcessorState(b"\x01" * 48, b"\x02" * 32, b"\x03" * 32),
)
ROOT = GuestSpec(
    name="web",
    uuid="11111111-2222-4333-8444-555555555555",
    memory_mib=1024,
    vcpus=2,
    accelerator=Accelerator.TCG,
    boot=Boot("/pool/kernel", "/pool/initrd", "/pool/root", "console=ttyS0 sevfork.root=1,a,b"),
    mac="52:01:02:03:04:05",
    console_log="/pool/web-11111111.log",
    metadata=METADATA,
)
CHILD = child_spec(
    ROOT,
    name="web-fork",
    uuid="66666666-2222-4333-8444-555555555555",
    mac="52:0a:0b:0c:0d:0e",
    console_log="/pool/web-fork-66666666.log",
    metadata=replace(
        METADATA,
        role=Role.CHILD,
        phase=Phase.FORMING,
        generation=1,
        parent=ROOT.uuid,
        parent_name="web",
        fork_id="ab" * 16,
        index=0,
        ports=(),
        volumes=("web-fork-66666666.log",),
        maker=Maker("host pid:[1]", "boot", 4711, 99),
    ),
)
GUESTS = {
    "root-tcg": ROOT,
    "child-tcg": CHILD,
    "root-kvm": replace(ROOT, accelerator=Accelerator.KVM),
    "root-named-cpu": replace(
        ROOT,
        accelerator=Accelerator.KVM,
        metadata=replace(METADATA, cpu_model="EPYC-v4"),
    ),
    "root-snp": replace(
        ROOT,
        accelerator=Accelerator.KVM,
        metadata=replace(METADATA, technology=Technology.SEV_SNP, processor=None),
        hardware=SnpLaunch("/usr/share/ovmf/OVMF.amdsev.fd", 51, 1, b"\x07" * 32),
    ),
    "root-tdx": replace(
        ROOT,
        accelerator=Accelerator.KVM,
        metadata=replace(METADATA, technology=Technology.TDX, processor=None),
        hardware=TdxLaunch("/usr/share/ovmf/OVMF.inteltdx.ms.fd", b"\x09" * 48),
    ),
}
