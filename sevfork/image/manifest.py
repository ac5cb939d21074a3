"""``manifest.json`` of a built image (schema 1): what it is, and how to tell that it is that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sevfork.agent.workload import Workload
from sevfork.image.base import BaseInfo
from sevfork.image.verity import Verity
from sevfork.simulated.launch_digest import simulated_launch_digest
from sevfork.technology import Technology

SCHEMA = 1
FILES = ("vmlinuz", "initrd.img", "root.img")
VCPUS = (1, 2, 4, 8)


@dataclass(frozen=True)
class FileDigest:
    sha384: str
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> FileDigest:
        with path.open("rb") as file:
            return cls(hashlib.file_digest(file, "sha384").hexdigest(), path.stat().st_size)


@dataclass(frozen=True)
class Built:
    """What a build ended up with; ``inputs`` is the digest of all that went in."""

    inputs: str
    technology: Technology
    kernel_cmdline: str
    cpu_model: str
    verity: Verity
    workload: Workload
    base: BaseInfo
    policy: bytes
    fork: str


def launch_digests(built: Built, files: Mapping[str, FileDigest]) -> dict[str, str]:
    """The expected launch digest by number of vCPUs.

    Simulated only: that of SNP depends on the host's firmware file as well, and a TDX quote has
    registers instead of one digest (docs/guest-image.md).
    """
    if built.technology is not Technology.SIMULATED:
        return {}
    kernel, initrd = (bytes.fromhex(files[name].sha384) for name in FILES[:2])
    cmdline, model = built.kernel_cmdline.encode(), built.cpu_model
    return {
        str(vcpus): simulated_launch_digest(kernel, initrd, cmdline, vcpus, model).hex()
        for vcpus in VCPUS
    }


def manifest(built: Built, files: Mapping[str, FileDigest]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "name": built.workload.name,
        "technology": built.technology.value,
        "inputs": built.inputs,
        "kernel_cmdline": built.kernel_cmdline,
        "cpu_model": built.cpu_model,
        "files": {n: {"sha384": f.sha384, "size": f.size_bytes} for n, f in files.items()},
        "root_hash": built.verity.root_hash,
        "fork": built.fork,
        "policy_digest": hashlib.sha384(built.policy).hexdigest(),
        "launch_digests": launch_digests(built, files),
        "workload": {"name": built.workload.name, "ports": list(built.workload.ports)},
        "epoch": built.base.epoch_s,
        "packages": {p.name: p.version for p in built.base.packages},
        "moved": list(built.base.moved),
    }


def write(directory: Path, built: Built) -> None:
    files = {name: FileDigest.of(directory / name) for name in FILES}
    text = json.dumps(manifest(built, files), indent=2, sort_keys=True)
    (directory / "manifest.json").write_text(text + "\n")


class _FoundFile(msgspec.Struct):
    sha384: str
    size: int


class _Found(msgspec.Struct):
    schema: int
    inputs: str
    files: dict[str, _FoundFile]


def is_current(directory: Path, inputs: str) -> bool:
    """Whether a directory holds, undamaged, the image that these inputs make.

    Anything else there, half an image for instance, is no error: the image is built anew.
    """
    try:
        found = msgspec.json.decode((directory / "manifest.json").read_bytes(), type=_Found)
        there = {name: FileDigest.of(directory / name) for name in FILES}
    except (OSError, msgspec.DecodeError):
        return False
    wanted = {name: FileDigest(file.sha384, file.size) for name, file in found.files.items()}
    return found.schema == SCHEMA and found.inputs == inputs and there == wanted
