"""What one VM is, as plain data."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sevfork.domain.spec import random_mac
from tests.support.guest_specs import CHILD, ROOT


def test_a_child_is_launched_like_its_parent() -> None:
    for field in ("memory_mib", "vcpus", "accelerator", "boot"):
        assert getattr(CHILD, field) == getattr(ROOT, field)


def test_a_random_mac_is_unicast_and_locally_administered() -> None:
    first, *rest = (int(octet, 16) for octet in random_mac().split(":"))
    assert first & 1 == 0
    assert first & 2
    assert len(rest) == 5
    assert random_mac() != random_mac()


@pytest.mark.own_processes
def test_a_spec_needs_no_xml_library() -> None:
    script = "import sys, sevfork.domain.spec; sys.exit('lxml' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
