"""What an admin changes with ``virsh edit``, as text that goes into a domain of sevfork's.

``EDITED`` starts anywhere; ``TUNED`` has more, of machines that have it.
"""

from __future__ import annotations

from sevfork.domain.spec import GuestSpec
from sevfork.domain.xml import domain_xml

QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
METADATA = """
    <acme:ticket xmlns:acme="https://acme.example/tickets">OPS-4711</acme:ticket>
"""
EDITED_SETTINGS = """
  <title>the shop's cache</title>
  <description>ask Ada before you touch it</description>
  <iothreads>2</iothreads>
  <cputune>
    <shares>2048</shares>
    <vcpupin vcpu="0" cpuset="0"/>
    <emulatorpin cpuset="0"/>
    <iothreadpin iothread="1" cpuset="0"/>
  </cputune>
  <memoryBacking>
    <nosharepages/>
    <source type="memfd"/>
    <access mode="private"/>
  </memoryBacking>
"""
TUNED_SETTINGS = """
  <genid>a1b2c3d4-0000-4000-8000-000000000001</genid>
  <numatune>
    <memory mode="strict" nodeset="0"/>
  </numatune>
  <sysinfo type="smbios">
    <system>
      <entry name="uuid">11111111-2222-4333-8444-555555555555</entry>
      <entry name="family">cache</entry>
    </system>
  </sysinfo>
"""
EDITED_DEVICES = """
    <rng model="virtio">
      <rate bytes="1024" period="1000"/>
      <backend model="builtin"/>
    </rng>
    <watchdog model="i6300esb" action="none"/>
    <input type="tablet" bus="virtio"/>
    <graphics type="vnc" port="5907" autoport="no" listen="127.0.0.1" passwd="not-told"/>
    <video>
      <model type="vga" vram="16384" heads="1"/>
    </video>
    <serial type="pty">
      <target type="isa-serial" port="1"/>
    </serial>
    <channel type="unix">
      <target type="virtio" name="org.qemu.guest_agent.0"/>
    </channel>
    <interface type="user">
      <mac address="52:54:00:00:00:02"/>
      <model type="virtio"/>
      <link state="down"/>
    </interface>
"""
TUNED_DEVICES = """
    <disk type="file" device="cdrom">
      <driver name="qemu" type="raw"/>
      <source file="/isos/tools.iso" index="2"/>
      <backingStore/>
      <target dev="sda" bus="sata"/>
      <readonly/>
      <alias name="sata0-0-0"/>
      <address type="drive" controller="0" bus="0" target="0" unit="0"/>
    </disk>
    <disk type="file" device="disk">
      <driver name="qemu" type="raw" error_policy="report" rerror_policy="report"/>
      <source file="/pool/sf-0123456789abcdef.snapshot"/>
      <target dev="vdb" bus="virtio"/>
      <shareable/>
      <serial>sf-0123456789abcdef</serial>
    </disk>
    <interface type="network">
      <mac address="52:54:00:00:00:03"/>
      <source network="default" portid="a1b2c3d4-0000-4000-8000-000000000002" bridge="virbr0"/>
      <target dev="vnet7"/>
      <model type="virtio"/>
      <filterref filter="clean-traffic">
        <parameter name="IP" value="192.168.122.7"/>
      </filterref>
      <alias name="net2"/>
    </interface>
    <serial type="tcp">
      <source mode="bind" host="127.0.0.1" service="4555"/>
      <protocol type="raw"/>
      <target type="isa-serial" port="2"/>
    </serial>
    <vsock model="virtio">
      <cid auto="yes" address="3"/>
    </vsock>
    <tpm model="tpm-crb">
      <backend type="emulator" version="2.0"/>
    </tpm>
"""
LABEL = """
  <seclabel type="dynamic" model="dac" relabel="yes">
    <label>+64055:+64055</label>
    <imagelabel>+64055:+64055</imagelabel>
  </seclabel>
"""
PASSTHROUGH = """
  <qemu:commandline xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
    <qemu:arg value="-global"/>
    <qemu:arg value="virtio-rng-pci.max-bytes=4096"/>
  </qemu:commandline>
"""


def edited(spec: GuestSpec) -> str:
    """The domain with what any libvirt host with QEMU can start."""
    return put(spec, METADATA, EDITED_SETTINGS, EDITED_DEVICES, PASSTHROUGH)


def tuned(spec: GuestSpec) -> str:
    """The same with what takes a particular host, and with what libvirt adds while it runs."""
    live = domain_xml(spec).replace("<domain ", '<domain id="7" ', 1)
    live = live.replace("<serial>sevfork", '<alias name="virtio-disk0"/><serial>sevfork', 1)
    live = live.replace(
        '<channel type="unix">',
        '<channel type="unix"><source mode="bind" '
        'path="/run/libvirt/qemu/channel/7-web/org.sevfork.agent.0"/>',
    )
    settings, devices = TUNED_SETTINGS + EDITED_SETTINGS, EDITED_DEVICES + TUNED_DEVICES
    return _put(live, METADATA, settings, devices, LABEL + PASSTHROUGH)


def put(spec: GuestSpec, metadata: str, settings: str, devices: str, end: str) -> str:
    """A domain of sevfork's with more in it, at the places where libvirt has it."""
    return _put(domain_xml(spec), metadata, settings, devices, end)


def _put(domain: str, metadata: str, settings: str, devices: str, end: str) -> str:
    for mark, text in (
        ("</metadata>", metadata),
        ("</devices>", devices),
        ("</domain>", end),
    ):
        domain = domain.replace(mark, text + mark)
    return domain.replace("</metadata>", "</metadata>" + settings)


OWN = """<domain type="qemu">
  <name>whatever</name>
  <metadata>
    <acme:ticket xmlns:acme="https://acme.example/tickets">OPS-4711</acme:ticket>
  </metadata>
  <memory unit="MiB">768</memory>
  <vcpu placement="static">1</vcpu>
  <iothreads>2</iothreads>
  <cputune>
    <shares>2048</shares>
    <vcpupin vcpu="0" cpuset="0"/>
    <emulatorpin cpuset="0"/>
  </cputune>
  <memoryBacking>
    <nosharepages/>
    <source type="memfd"/>
  </memoryBacking>
  <os>
    <type arch="x86_64">hvm</type>
    <boot dev="hd"/>
  </os>
  <features>
    <acpi/>
    <pmu state="off"/>
  </features>
  <cpu>
    <topology sockets="1" dies="1" cores="1" threads="1"/>
    <feature policy="require" name="cx16"/>
    <numa>
      <cell id="0" cpus="0" memory="768" unit="MiB"/>
    </numa>
  </cpu>
  <on_reboot>restart</on_reboot>
  <devices>
    <interface type="user">
      <mac address="52:54:00:aa:bb:cc"/>
      <model type="virtio"/>
    </interface>
    <serial type="pty">
      <target type="isa-serial" port="0"/>
    </serial>
    <console type="pty">
      <target type="serial" port="0"/>
    </console>
    <watchdog model="i6300esb" action="none"/>
    <rng model="virtio">
      <rate bytes="4096" period="1000"/>
      <backend model="builtin"/>
    </rng>
  </devices>
</domain>
"""
