"""A built guest image as the host sees it: ``manifest.json`` and the three files it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sevfork.errors import UsageError
from sevfork.image import manifest_json
from sevfork.image.manifest_json import ImageManifest
from sevfork.technology import Technology


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
            return _image(directory, manifest_json.read(directory))
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


def _image(directory: Path, manifest: ImageManifest) -> Image:
    if not (manifest.name.isprintable() and manifest.cpu_model.isprintable()):
        raise ValueError("a name holds control characters")  # XML could not carry them
    return Image(
        name=manifest.name,
        technology=manifest.technology,
        cmdline=manifest.kernel_cmdline,
        cpu_model=manifest.cpu_model,
        kernel=_file(directory, manifest_json.KERNEL, manifest),
        initrd=_file(directory, manifest_json.INITRD, manifest),
        root=_file(directory, manifest_json.ROOT, manifest),
        workload_ports=manifest.workload.ports,
        launch_digests=manifest.launch_digests,
    )


def _file(directory: Path, name: str, manifest: ImageManifest) -> ImageFile:
    described = manifest.files[name]
    if len(bytes.fromhex(described.sha384)) != 48:
        raise ValueError(f"'{name}' has no SHA-384")
    path = directory / name
    if path.stat().st_size != described.size:
        raise ValueError(f"'{name}' has not the size that the manifest gives")
    return ImageFile(path, described.sha384, described.size)
