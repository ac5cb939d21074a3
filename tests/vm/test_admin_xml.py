"""A VM of an admin's own XML, changed once more while it runs, and forked."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree

from sevfork.domain.elements import parse
from sevfork.host.hypervisor import Hypervisor
from tests.support.admin_xml import OWN
from tests.vm.lab import Lab, Vm


@pytest.fixture(scope="module")
def parent(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    path = tmp_path_factory.mktemp("own") / "own.xml"
    path.write_text(OWN)
    parent = lab.up("redis", "--xml", str(path))
    yield parent
    lab.run("rm", parent.uuid)  # whatever it is called by then


def virsh(hypervisor: Hypervisor, *words: str) -> None:
    subprocess.run(["virsh", "--connect", hypervisor.uri, *words], check=True, timeout=60)


def has(hypervisor: Hypervisor, vm: Vm) -> dict[str, object]:
    """What an admin has set, as libvirt says that it is in force."""
    domain = parse(hypervisor.xml(vm.uuid))
    pci = domain.findall("devices/*/address[@type='pci']")
    return {
        "iothreads": domain.findtext("iothreads"),
        "shares": domain.findtext("cputune/shares"),
        "pinned": [each.get("cpuset") for each in domain.findall("cputune/vcpupin")],
        "cells": len(domain.findall("cpu/numa/cell")),
        "memory": domain.find("memoryBacking/source[@type='memfd']") is not None,
        "watchdog": domain.find("devices/watchdog[@model='i6300esb']") is not None,
        "generators": len(domain.findall("devices/rng")),
        "ticket": domain.findtext("metadata/{https://acme.example/tickets}ticket"),
        "note": domain.findtext("metadata/{urn:example:note}note"),
        "addresses": sorted(etree.tostring(each) for each in pci),
    }


def test_a_child_has_what_an_admin_gave_its_parent(
    lab: Lab, hypervisor: Hypervisor, parent: Vm, tmp_path: Path
) -> None:
    generator = tmp_path / "rng.xml"
    generator.write_text("<rng model='virtio'><backend model='builtin'/></rng>")
    virsh(hypervisor, "attach-device", parent.uuid, str(generator), "--live")
    virsh(hypervisor, "iothreadadd", parent.uuid, "3", "--live")
    note = ("--uri", "urn:example:note", "--key", "n", "--set", "<note>ask Ada</note>")
    virsh(hypervisor, "metadata", parent.uuid, "--live", *note)
    before = has(hypervisor, parent)
    assert (before["iothreads"], before["generators"], before["note"]) == ("3", 2, "ask Ada")
    assert all(before.values())

    parent.redis().set("key", "kept")
    _, [child] = lab.fork(parent)
    assert child.redis().get("key") == b"kept"
    _, [grandchild] = lab.fork(child)
    assert grandchild.redis().get("key") == b"kept"
    assert has(hypervisor, child) == has(hypervisor, grandchild) == before
    lab.remove(child, grandchild)


def test_a_fork_says_what_becomes_of_each_device(lab: Lab, parent: Vm) -> None:
    devices = lab.run("fork", parent.name, "--dry-run", "--json").data["devices"]
    plans = {each["device"]: each["plan"] for each in devices}
    assert plans["disk"] == "share"
    assert plans["watchdog"] == plans["interface"] == plans["rng"] == "clone"
    assert all(each["reason"] for each in devices)
    said = lab.run("fork", parent.name, "--dry-run").stdout
    assert "is only read" in said


def test_a_parent_that_is_given_a_disk_is_not_forked_until_it_is_taken_away(
    lab: Lab, hypervisor: Hypervisor, parent: Vm, tmp_path: Path
) -> None:
    disk = Path(hypervisor.storage.create(f"{lab.prefix}-data", 2**20).path)
    virsh(hypervisor, "attach-disk", parent.uuid, str(disk), "vdx", "--live")
    try:
        refused = lab.run("fork", parent.name, check=False)
        assert refused.returncode == 11
        assert "disk 'vdx'" in refused.stderr
        assert f"{parent.name}-fork" not in lab.vms()
    finally:
        virsh(hypervisor, "detach-disk", parent.uuid, "vdx", "--live")
        hypervisor.storage.delete(f"{lab.prefix}-data")
    assert parent.redis().ping()


def test_a_vm_that_was_renamed_and_edited_is_started_anew_and_forked(
    lab: Lab, hypervisor: Hypervisor, parent: Vm, tmp_path: Path
) -> None:
    virsh(hypervisor, "destroy", parent.uuid)
    name = f"{lab.prefix}-renamed"
    virsh(hypervisor, "domrename", parent.name, name)
    edited = tmp_path / "edited.xml"
    shares = "<shares>2048</shares>"
    text = hypervisor.xml(parent.uuid)
    assert shares in text
    edited.write_text(text.replace(shares, "<shares>256</shares>"))
    virsh(hypervisor, "define", str(edited), "--validate")

    again = Vm.of(lab.run("up", name, "--json").data["vm"])
    assert (again.uuid, again.name) == (parent.uuid, name)
    again.redis().set("key", "anew")
    _, [child] = lab.fork(again)
    assert child.redis().get("key") == b"anew"
    assert has(hypervisor, child)["shares"] == "256"
    assert child.name == f"{name}-fork"
    assert lab.vms()[child.name]["parent_uuid"] == parent.uuid
    lab.remove(child)
