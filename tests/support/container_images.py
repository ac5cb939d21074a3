"""Container images made by hand, byte by byte the same each time: OCI layouts of tar layers."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MEDIA = "application/vnd.oci.image"


@dataclass(frozen=True)
class Entry:
    """A member of a layer; ``attributes`` are extended ones."""

    name: str
    data: bytes = b""
    mode: int = 0o644
    kind: bytes = tarfile.REGTYPE
    link: str = ""
    owner: tuple[int, int] = (0, 0)
    attributes: Mapping[str, bytes] = field(default_factory=dict)
    device: tuple[int, int] = (0, 0)


def directory(name: str, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> Entry:
    return Entry(name, mode=mode, kind=tarfile.DIRTYPE, owner=owner)


def link(name: str, target: str) -> Entry:
    return Entry(name, kind=tarfile.SYMTYPE, link=target)


def layer(entries: Sequence[Entry]) -> bytes:
    """A tar stream."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            archive.addfile(_member(entry), io.BytesIO(entry.data))
    return stream.getvalue()


def _member(entry: Entry) -> tarfile.TarInfo:
    member = tarfile.TarInfo(entry.name)
    member.type, member.mode, member.linkname = entry.kind, entry.mode, entry.link
    member.uid, member.gid = entry.owner
    member.size = len(entry.data)
    member.devmajor, member.devminor = entry.device
    member.pax_headers = {
        f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")
        for name, value in entry.attributes.items()
    }
    return member


def layout(
    target: Path,
    layers: Sequence[Sequence[Entry] | bytes],
    config: Mapping[str, Any],
    *,
    zstd: bool = False,
    others: Sequence[str] = (),
) -> str:
    """Write an OCI layout; the name of its image, tagged ``image``, for skopeo.

    A layer is its entries, or a tar stream. ``others``: architectures beside amd64, whose images
    have a configuration and no layer; the tag is then that of an index.
    """
    blobs = target / "blobs/sha256"
    blobs.mkdir(parents=True)
    tars = [each if isinstance(each, bytes) else layer(each) for each in layers]
    manifests = [
        {**_image(blobs, [], {}, other, zstd=False), "platform": _platform(other)}
        for other in others
    ]
    named = _image(blobs, tars, config, "amd64", zstd=zstd)
    if others:
        manifests.append({**named, "platform": _platform("amd64")})
        index = {"schemaVersion": 2, "mediaType": f"{_MEDIA}.index.v1+json", "manifests": manifests}
        named = _blob(blobs, _json(index), f"{_MEDIA}.index.v1+json")
    tagged = {**named, "annotations": {"org.opencontainers.image.ref.name": "image"}}
    (target / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [tagged]}))
    (target / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    return f"oci:{target}:image"


def _image(
    blobs: Path, tars: Sequence[bytes], config: Mapping[str, Any], architecture: str, *, zstd: bool
) -> dict[str, Any]:
    suffix, pack = ("zstd", _zstd) if zstd else ("gzip", _gzip)
    layers = [_blob(blobs, pack(tar), f"{_MEDIA}.layer.v1.tar+{suffix}") for tar in tars]
    diff_ids = [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]
    whole = {
        **_platform(architecture),
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    configuration = _blob(blobs, _json(whole), f"{_MEDIA}.config.v1+json")
    manifest = {"schemaVersion": 2, "config": configuration, "layers": layers}
    return _blob(blobs, _json(manifest), f"{_MEDIA}.manifest.v1+json")


def _platform(architecture: str) -> dict[str, str]:
    return {"os": "linux", "architecture": architecture}


def _blob(blobs: Path, content: bytes, media_type: str) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=1, mtime=0)


def _zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
