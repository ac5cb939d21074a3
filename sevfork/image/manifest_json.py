"""``manifest.json`` of a built image (schema 1): what the image is, and whether it still is that.

The one description of the file: a build writes it from here, everybody else reads it from here,
and a test holds ``docs/guest-image.md`` to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from sevfork.image.oci.container_image import ContainerSource
from sevfork.simulated.launch_digest import simulated_launch_digest
from sevfork.technology import Technology

SCHEMA = 1
NAME = "manifest.json"
KERNEL, INITRD, ROOT = FILES = ("vmlinuz", "initrd.img", "root.img")
VCPUS = (1, 2, 4, 8)


class FileDigest(Struct, frozen=True):
    """``sha384`` in hexadecimal, ``size`` in bytes."""

    sha384: str
    size: int

    @classmethod
    def of(cls, path: Path) -> FileDigest:
        with path.open("rb") as file:
            return cls(hashlib.file_digest(file, "sha384").hexdigest(), path.stat().st_size)


class WorkloadSummary(Struct, frozen=True):
    """What the host needs to know of the workload: its name, the TCP ports it may publish.

    ``logs``: who may read what it prints; ``exec``: who may run commands beside it.
    """

    name: str
    ports: tuple[int, ...]
    logs: str = ""
    exec: str = ""


class ImageManifest(Struct, frozen=True, kw_only=True):
    """The file, key by key. Keys that are not here are ignored: a later version may add some."""

    schema: int = SCHEMA
    # The workload's name.
    name: str
    technology: Technology
    # Who may fork guests of it: the policy's word.
    fork: str
    # Measured, the root hash included.
    kernel_cmdline: str
    cpu_model: str
    # By name: the kernel, the initramfs, the root file system.
    files: dict[str, FileDigest]
    # Of the dm-verity tree (SHA-256), and SHA-384 of the measured policy; both in hexadecimal.
    root_hash: str
    policy_digest: str
    # Expected values by number of vCPUs, in hexadecimal; none for hardware.
    launch_digests: dict[int, str]
    workload: WorkloadSummary
    # Name to version of every Debian package, and a line for each that is not as locked.
    packages: dict[str, str]
    moved: tuple[str, ...]
    # The container image that the workload is, if it is one: name, and two digests.
    oci: ContainerSource | None = None
    # The time that every file in the image carries, in Unix seconds.
    epoch: int
    # A digest of all that went in: the same inputs make the same image.
    inputs: str

    def builtins(self) -> dict[str, Any]:
        """As it stands in the file."""
        found: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return found


def launch_digests(
    technology: Technology, files: Mapping[str, FileDigest], kernel_cmdline: str, cpu_model: str
) -> dict[int, str]:
    """The expected launch digest by number of vCPUs.

    Simulated only: that of SNP depends on the host's firmware file as well, and a TDX quote has
    registers instead of one digest (docs/guest-image.md).
    """
    if technology is not Technology.SIMULATED:
        return {}
    kernel, initrd = (bytes.fromhex(files[name].sha384) for name in (KERNEL, INITRD))
    cmdline = kernel_cmdline.encode()
    return {
        vcpus: simulated_launch_digest(kernel, initrd, cmdline, vcpus, cpu_model).hex()
        for vcpus in VCPUS
    }


def digests(directory: Path) -> dict[str, FileDigest]:
    """Of the files that are in the directory now."""
    return {name: FileDigest.of(directory / name) for name in FILES}


def write(directory: Path, manifest: ImageManifest) -> None:
    text = json.dumps(manifest.builtins(), indent=2, sort_keys=True)
    (directory / NAME).write_text(text + "\n")


def read(directory: Path) -> ImageManifest:
    """Raises OSError, and msgspec.DecodeError for anything that is not schema 1."""
    manifest = msgspec.json.decode((directory / NAME).read_bytes(), type=ImageManifest)
    if manifest.schema != SCHEMA:
        raise msgspec.ValidationError(f"schema {manifest.schema}, wanted {SCHEMA}")
    return manifest


def is_current(directory: Path, inputs: str) -> bool:
    """Whether a directory holds, undamaged, the image that these inputs make.

    Anything else there, half an image for instance, is no error: the image is built anew.
    """
    try:
        manifest = read(directory)
        return manifest.inputs == inputs and digests(directory) == manifest.files
    except (OSError, msgspec.DecodeError):
        return False
