"""A built guest image as the host sees it: ``manifest.json`` and the three files it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sevfork.errors import UsageError
from sevfork.technology import Technology

SCHEMA = 1


@dataclass(frozen=True)
class ImageFile:
    """One file, with the SHA-384 (hex) that the manifest gives for it."""

    path: Path
    sha384: str
    size_bytes: int

    @property
    def volume_name(self) -> str:
        """By content: two images with the same kernel share it, and no image changes under a VM."""
        return f"image-{self.sha384[:40]}{self.path.suffix or '.kernel'}"


@dataclass(frozen=True)
class Image:
    """``launch_digests`` are expected values by number of vCPUs, in hex."""

    name: str
    technology: Technology
    cmdline: str
    cpu_model: str
    kernel: ImageFile
    initrd: ImageFile
    root: ImageFile
    workload_ports: tuple[int, ...]
    launch_digests: Mapping[int, str]

    @property
    def files(self) -> tuple[ImageFile, ...]:
        return self.kernel, self.initrd, self.root

    @classmethod
    def load(cls, directory: Path) -> Image:
        """Read the manifest; raises UsageError for anything but a whole image."""
        try:
            found = msgspec.json.decode((directory / "manifest.json").read_bytes(), type=_Manifest)
            return _image(directory, found)
        except OSError as exc:
            raise UsageError(
                f"'{directory}' is not a guest image: cannot read '{exc.filename}'",
                hint="build one with 'sevfork guest build -o DIR --workload FILE'",
            ) from exc
        except (msgspec.DecodeError, ValueError, KeyError) as exc:
            raise UsageError(
                f"the manifest of the guest image '{directory}' is not valid: {exc}",
                hint="build it again with 'sevfork guest build'",
            ) from exc


class _File(msgspec.Struct, frozen=True):
    sha384: str
    size: int


class _Workload(msgspec.Struct, frozen=True):
    ports: list[int]


class _Manifest(msgspec.Struct, frozen=True):
    schema: int
    name: str
    technology: str
    kernel_cmdline: str
    cpu_model: str
    files: dict[str, _File]
    workload: _Workload
    launch_digests: dict[str, str] = {}


def _image(directory: Path, manifest: _Manifest) -> Image:
    if manifest.schema != SCHEMA:
        raise ValueError(f"schema {manifest.schema}, wanted {SCHEMA}")
    if not (manifest.name.isprintable() and manifest.cpu_model.isprintable()):
        raise ValueError("a name holds control characters")  # XML could not carry them
    return Image(
        name=manifest.name,
        technology=Technology(manifest.technology),
        cmdline=manifest.kernel_cmdline,
        cpu_model=manifest.cpu_model,
        kernel=_file(directory, "vmlinuz", manifest),
        initrd=_file(directory, "initrd.img", manifest),
        root=_file(directory, "root.img", manifest),
        workload_ports=tuple(manifest.workload.ports),
        launch_digests={int(vcpus): hexes for vcpus, hexes in manifest.launch_digests.items()},
    )


def _file(directory: Path, name: str, manifest: _Manifest) -> ImageFile:
    described = manifest.files[name]
    if len(bytes.fromhex(described.sha384)) != 48:
        raise ValueError(f"'{name}' has no SHA-384")
    path = directory / name
    if path.stat().st_size != described.size:
        raise ValueError(f"'{name}' has not the size that the manifest gives")
    return ImageFile(path, described.sha384, described.size)
