"""What loads without what: the host's libraries are the host's, and libvirt is one room's."""

from __future__ import annotations

import importlib
import sys

import pytest

from sevfork.process import run
from tests.support import REPOSITORY

HOST_LIBRARIES = ("click", "libvirt", "libvirt_qemu", "lxml", "rich", "sevsnpmeasure")
MEASURED = ("agent", "attest", "handshake", "seal", "wire")
IMPORT_ALL = """
import importlib, pkgutil, sys
hidden, packages = (words.split(",") for words in sys.argv[1:])
sys.modules.update(dict.fromkeys(hidden))
for package in packages:
    found = importlib.import_module(package)
    for module in pkgutil.walk_packages(getattr(found, "__path__", ()), f"{package}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""
LIBVIRT = ("libvirt", "libvirt_qemu")
ABSENT_WHILE_TESTS_LOAD = [name for name in LIBVIRT if sys.modules.get(name, "") is None]


@pytest.mark.own_processes
def test_what_is_measured_loads_without_the_hosts_libraries() -> None:
    packages = ",".join(f"sevfork.{room}" for room in MEASURED)
    command = [sys.executable, "-c", IMPORT_ALL, ",".join(HOST_LIBRARIES), packages]
    run(command, timeout_s=60, cwd=REPOSITORY)


@pytest.mark.own_processes
def test_what_unit_tests_share_loads_without_libvirt() -> None:
    shared = "tests.support,tests.unit.conftest"
    command = [sys.executable, "-c", IMPORT_ALL, ",".join(LIBVIRT), shared]
    run(command, timeout_s=60, cwd=REPOSITORY)


def test_unit_tests_load_and_run_without_libvirt() -> None:
    """So that `make unit` runs on a machine that has no libvirt-python."""
    assert tuple(ABSENT_WHILE_TESTS_LOAD) == LIBVIRT
    for name in LIBVIRT:
        with pytest.raises(ImportError):
            importlib.import_module(name)
