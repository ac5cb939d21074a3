"""The disks of a domain."""

from __future__ import annotations

import pytest

from sevfork.domain.disks import disk, disk_xml, has_target, volume_paths
from sevfork.domain.xml import domain_xml
from tests.support.guest_specs import ROOT


def test_every_file_that_a_domain_uses_is_found() -> None:
    sealed = disk_xml("/pool/sealed", "sf-0123456789abcdef", "vdb", readonly=True)
    text = domain_xml(ROOT).replace("<serial type=", f"{sealed}<serial type=", 1)
    assert volume_paths(text) == {
        "/pool/kernel",
        "/pool/initrd",
        "/pool/root",
        "/pool/sealed",
        "/pool/web-11111111.log",
    }
    assert has_target(text, "vdb")
    assert not has_target(text, "vdc")


def test_a_serial_that_virtio_would_cut_short_is_refused() -> None:
    with pytest.raises(ValueError, match="20 characters"):
        disk("/pool/x", "s" * 21, "vdb", readonly=True)
