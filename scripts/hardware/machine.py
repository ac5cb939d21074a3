"""What a machine says of itself, as far as it matters to whether guests run: no serial numbers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from scripts.hardware.session import belongs
from sevfork import __version__
from sevfork.domain.xml import spec_from_xml
from sevfork.errors import SevforkError
from sevfork.host import connection_choice, serial_log
from sevfork.host.amd_processor import CPUINFO, read_processor, snp_platform
from sevfork.process import run

_DMI = Path("/sys/class/dmi/id")
_DMI_NAMES = ("sys_vendor", "product_name", "bios_vendor", "bios_version", "bios_date")
_KERNEL_WORDS = re.compile(r"\b(sev|snp|tdx|seam|ccp|rmp|mktme|tme)\b", re.IGNORECASE)
_COMMAND_LINE = re.compile(r"^(kvm|mem_encrypt|iommu|amd_iommu|intel_iommu|nohibernate|tdx)")
_MOST_LINES = 80
_LOG_END = 20_000


def describe(root: Path) -> dict[str, object]:
    """``root``: sevfork's own tree."""
    return {
        "sevfork": __version__,
        "commit": _said("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"),
        "distribution": _distribution(),
        "kernel": os.uname().release,
        "kernel_options": [word for word in _read("/proc/cmdline").split() if _matters(word)],
        "board": {name: _read(_DMI / name) for name in _DMI_NAMES},
        "processor": _processor(),
        "snp_firmware": _snp_firmware(),
        "kernel_log": _kernel_log(),
    }


def _matters(option: str) -> bool:
    return bool(_COMMAND_LINE.match(option))


def _read(path: Path | str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _said(*words: str) -> str:
    try:
        return run(words, timeout_s=20).stdout.strip()
    except SevforkError as exc:
        return f"not told: {exc.message}"


def _distribution() -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', _read("/etc/os-release"), re.MULTILINE)
    return found[1] if found else ""


def _processor() -> dict[str, object]:
    cpuinfo = _read(CPUINFO)
    model = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    processor = read_processor(cpuinfo)
    if processor is None:
        return {"model": model[1] if model else "", "cpus": os.cpu_count()}
    return {
        "model": model[1] if model else "",
        "cpus": os.cpu_count(),
        "cpuid": str(processor.cpuid),
        "microcode": f"{processor.microcode:#x}",
    }


def _snp_firmware(ask: Callable[[], object] = snp_platform) -> str:
    try:
        return str(ask())
    except OSError as exc:
        return f"not asked: {exc.strerror}"


def serial_logs(vm: str) -> dict[str, str]:
    """The end of the serial logs of the VM and of what was forked from it."""
    logs = {}
    with closing(connection_choice.connect(None, lambda _: None)) as hypervisor:
        for domain in hypervisor.domains():
            if belongs(domain.name, vm) and domain.metadata_xml is not None:
                data = serial_log.read(hypervisor, spec_from_xml(hypervisor.xml(domain.uuid)))
                logs[domain.name] = (data or b"").decode(errors="replace")[-_LOG_END:]
    return logs


def _kernel_log() -> list[str]:
    lines = _said("dmesg").splitlines()
    return [line for line in lines if _KERNEL_WORDS.search(line)][-_MOST_LINES:]
