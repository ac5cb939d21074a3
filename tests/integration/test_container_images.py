"""Container images through skopeo and umoci, hostile ones too; made here, without a registry."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from sevfork.errors import UsageError
from sevfork.image.oci.container_image import ContainerImage, take
from sevfork.image.oci.reference import Reference
from tests.support.container_images import Entry, directory, layout, link

pytestmark = [
    pytest.mark.machine,
    pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices take root"),
]
CONFIG = {"Cmd": ["/app"], "ExposedPorts": {"80/tcp": {}}}
APP = Entry("app", b"program", 0o755)
CAPABILITY = b"\x01\x00\x00\x02\x00\x04\x00\x00" + bytes(12)


def taken(tmp_path: Path, *layers: list[Entry], name: str = "image", **options: object) -> Path:
    return image(tmp_path, *layers, name=name, **options).root.directory


def image(
    tmp_path: Path, *layers: list[Entry], name: str = "image", **options: object
) -> ContainerImage:
    reference = layout(tmp_path / name, layers, CONFIG, **options)  # type: ignore[arg-type]
    return fetched(reference, tmp_path / f"{name}-taken")


def fetched(reference: str, work: Path) -> ContainerImage:
    work.mkdir()
    return take(Reference.parse(reference), {}, work, None)


@pytest.mark.parametrize("zstd", [False, True])
def test_layers_are_laid_over_each_other(tmp_path: Path, zstd: bool) -> None:
    root = taken(
        tmp_path,
        [APP, directory("a"), Entry("a/gone", b"1"), Entry("a/stays", b"2"), directory("b")],
        [Entry("a/.wh.gone"), Entry("b/.wh..wh..opq"), Entry("b/new", b"3")],
        zstd=zstd,
    )
    assert sorted(path.name for path in (root / "a").iterdir()) == ["stays"]
    assert sorted(path.name for path in (root / "b").iterdir()) == ["new"]


def test_modes_owners_links_and_capabilities_are_kept(tmp_path: Path) -> None:
    capable = Entry("capable", b"x", 0o755, attributes={"security.capability": CAPABILITY})
    hard = Entry("hard", kind=tarfile.LNKTYPE, link="set-uid", mode=0o4755, owner=(1234, 56))
    root = taken(tmp_path, [APP, Entry("set-uid", b"x", 0o4755, owner=(1234, 56)), hard, capable])
    status = (root / "set-uid").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o4755, 1234, 56)
    assert status.st_ino == (root / "hard").stat().st_ino
    assert os.getxattr(root / "capable", "security.capability") == CAPABILITY


def test_of_an_index_the_image_for_a_guest_is_taken(tmp_path: Path) -> None:
    root = taken(tmp_path, [APP], others=("arm64", "s390x"))
    assert (root / "app").read_bytes() == b"program"


def test_an_image_for_another_machine_only_is_refused(tmp_path: Path) -> None:
    reference = layout(tmp_path / "image", [[APP]], CONFIG, others=("arm64",))
    index = tmp_path / "image/blobs/sha256"
    for blob in index.iterdir():
        content = blob.read_bytes()
        if b"image.index" in content:
            changed = content.replace(b'"architecture": "amd64"', b'"architecture": "mips"')
            digest = hashlib.sha256(changed).hexdigest()
            (index / digest).write_bytes(changed)
            top = tmp_path / "image/index.json"
            text = top.read_text().replace(blob.name, digest)
            top.write_text(text.replace(f'"size": {len(content)}', f'"size": {len(changed)}'))
    with pytest.raises(UsageError, match="container image"):
        fetched(reference, tmp_path / "taken")


def test_an_archive_is_the_same_image(tmp_path: Path) -> None:
    first = image(tmp_path, [APP])
    archive = f"oci-archive:{tmp_path}/image.tar"
    copy = ["skopeo", "copy", "-q", first.source.reference, archive]
    subprocess.run(copy, check=True, capture_output=True)
    second = fetched(archive, tmp_path / "second")
    assert second.source.digest == first.source.digest
    assert second.source.configuration == first.source.configuration


def test_what_docker_saves_is_unpacked(tmp_path: Path) -> None:
    """Its layers are plain, and its manifest, as skopeo makes it, calls them compressed."""
    saved = f"docker-archive:{tmp_path}/saved.tar"
    found = layout(tmp_path / "image", [[APP]], CONFIG)
    subprocess.run(["skopeo", "copy", "-q", found, f"{saved}:app:1"], check=True)
    assert (fetched(saved, tmp_path / "taken").root.directory / "app").read_bytes() == b"program"


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([Entry("../../outside/evil", b"x")], id="dot-dot"),
        pytest.param([Entry("/../../../outside/evil", b"x")], id="absolute-dot-dot"),
        pytest.param([link("out", "OUTSIDE"), Entry("out/evil", b"x")], id="absolute-link"),
        pytest.param([link("out", "../../../outside"), Entry("out/evil", b"x")], id="link"),
        pytest.param([Entry("evil", kind=tarfile.LNKTYPE, link="OUTSIDE/secret")], id="hard-link"),
        pytest.param([link("out", "OUTSIDE"), Entry("out/.wh.secret")], id="whiteout"),
        pytest.param([link("etc", "OUTSIDE")], id="etc"),
        pytest.param([link("run", "OUTSIDE")], id="run"),
        pytest.param([link("dev", "OUTSIDE"), link("proc", "OUTSIDE")], id="dev"),
    ],
)
def test_a_hostile_layer_reaches_nothing_outside(tmp_path: Path, entries: list[Entry]) -> None:
    """Refused or kept inside: either way nothing outside was read, written or removed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    aimed = [
        Entry(
            entry.name,
            entry.data,
            entry.mode,
            entry.kind,
            entry.link.replace("OUTSIDE", str(outside)),
        )
        for entry in entries
    ]
    try:
        root = taken(tmp_path, [APP], aimed)
    except UsageError:
        pass
    else:
        files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
        assert not [path for path in files if path.read_bytes() == b"secret"]
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_text() == "secret"
    assert (outside / "secret").stat().st_nlink == 1


def test_devices_and_the_overlays_own_attributes_are_left_out(tmp_path: Path) -> None:
    disk = Entry("disk", kind=tarfile.BLKTYPE, device=(8, 0), mode=0o666)
    whiteout = Entry("nothing", kind=tarfile.CHRTYPE, device=(0, 0))
    opaque = Entry("dir", kind=tarfile.DIRTYPE, mode=0o755)
    root = taken(tmp_path, [APP, disk, whiteout, opaque])
    assert sorted(path.name for path in root.iterdir()) == sorted(
        ["app", "dir", "dev", "etc", "proc", "run", "sys", "tmp"]
    )


def test_a_layer_that_is_not_what_the_image_says_is_refused(tmp_path: Path) -> None:
    reference = layout(tmp_path / "image", [[APP]], CONFIG)
    blobs = tmp_path / "image/blobs/sha256"
    largest = max(blobs.iterdir(), key=lambda path: path.read_bytes().startswith(b"\x1f\x8b"))
    largest.write_bytes(largest.read_bytes()[:-8] + bytes(8))
    with pytest.raises(UsageError, match="container image"):
        fetched(reference, tmp_path / "taken")


def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        fetched(f"oci:{tmp_path}/nothing:x", tmp_path / "taken")
