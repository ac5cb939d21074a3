"""Fetch a container image by ``skopeo`` into a private directory, for ``umoci`` to unpack.

Three copies. The first is of the image as it is found, for linux/amd64 where there are several, so
that the manifest's digest is that of the registry and the configuration has what other formats have
no place for (a health check). In the second the layers are plain tar, since umoci 0.4 of Debian 12
knows no zstd. The third is the layout that umoci reads. Its layers are gzip and said to be: of the
plain layers of ``docker save`` the manifest says so too, and umoci believes it. What skopeo fetches
it compares with its digests; umoci compares the layers with the configuration's.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sevfork.errors import HostCannot, UsageError
from sevfork.image.oci.reference import Reference
from sevfork.process import CommandFailed, run

TAG = "image"
PROGRAMS = ("skopeo", "umoci")
_TIMEOUT_S = 1800.0
# A layer, and a file in it, is not larger than this; more layers than that nobody can build.
LARGEST_FILE = 8 << 30
_MOST_LAYERS = 128
_LARGEST_JSON = 4 << 20
_ADVICE = "apt install skopeo umoci"


class _Blob(msgspec.Struct, frozen=True):
    digest: str


class _Manifest(msgspec.Struct, frozen=True):
    """Of OCI and of Docker's schema 2, which agree in what is needed here."""

    config: _Blob
    layers: list[_Blob]


@dataclass(frozen=True)
class Fetched:
    """``layout``: an OCI layout with the image as ``TAG``; digests as ``sha256:...``."""

    layout: Path
    digest: str
    configuration_digest: str
    configuration: bytes


def fetch(reference: Reference, directory: Path, authfile: Path | None = None) -> Fetched:
    """Fetch into ``directory``, which is private and exists.

    Raise UsageError when there is no such image, or it is none for linux/amd64 that can be used
    here.
    """
    original, plain, layout = (directory / name for name in ("original", "plain", "layout"))
    login = [f"--authfile={authfile}"] if authfile else []
    _copy(reference.text, f"dir:{original}", login, reference)
    content = (original / "manifest.json").read_bytes()
    manifest = _manifest(content, reference)
    digest = manifest.config.digest
    configuration = _json(original / digest.removeprefix("sha256:"))
    local = "--insecure-policy"  # its policy on signatures was asked for the first copy
    _copy(f"dir:{original}", f"dir:{plain}", [local, "--dest-decompress"], reference)
    _require_size(plain, reference)
    _copy(f"dir:{plain}", f"oci:{layout}:{TAG}", [local], reference)
    return Fetched(layout, f"sha256:{_sha256(content)}", digest, configuration)


def require_programs() -> None:
    """Raise HostCannot when a program that works on container images is not installed."""
    for program in PROGRAMS:
        if not shutil.which(program):
            raise HostCannot(
                f"'{program}' is not installed: container images need it", hint=_ADVICE
            )


def _copy(source: str, target: str, options: list[str], reference: Reference) -> None:
    # Files that are larger than the limit cannot be written: what a layer inflates to is its word.
    limit = ["prlimit", f"--fsize={LARGEST_FILE}"]
    platform = ["--override-os=linux", "--override-arch=amd64"]
    command = ["skopeo", *platform, "copy", "--quiet", *options, source, target]
    try:
        run([*limit, *command], timeout_s=_TIMEOUT_S)
    except CommandFailed as exc:
        raise UsageError(f"container image '{reference.text}': {_reason(exc)}") from exc


def _reason(failed: CommandFailed) -> str:
    """What skopeo says, which is a line of log with the words in it."""
    last = (failed.output.strip().splitlines() or ["skopeo did not say why"])[-1]
    _, found, message = last.partition("msg=")
    return message.strip('"').replace('\\"', '"') if found else last


def _manifest(content: bytes, reference: Reference) -> _Manifest:
    try:
        if len(content) > _LARGEST_JSON:
            raise UsageError(f"container image '{reference.text}': its manifest is too large")
        manifest = msgspec.json.decode(content, type=_Manifest)
    except msgspec.DecodeError as exc:
        raise UsageError(f"container image '{reference.text}': its manifest: {exc}") from exc
    if len(manifest.layers) > _MOST_LAYERS:
        raise UsageError(f"container image '{reference.text}': more than {_MOST_LAYERS} layers")
    return manifest


def _json(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_LARGEST_JSON + 1)
    if len(content) > _LARGEST_JSON:
        raise UsageError(f"container image: its configuration is over {_LARGEST_JSON} bytes")
    return content


def _require_size(directory: Path, reference: Reference) -> None:
    size = sum(path.stat().st_size for path in directory.iterdir())
    if size > LARGEST_FILE:
        raise UsageError(
            f"container image '{reference.text}': its layers hold {size >> 20} MiB, "
            f"and {LARGEST_FILE >> 20} is the limit"
        )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
