"""Guest images: read from disk, uploaded once, deleted when nobody boots them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from sevfork.errors import NotAuthentic, UsageError
from sevfork.host import image_volumes
from sevfork.image.image import Image
from sevfork.technology import Technology
from tests.support.fake_hypervisor import FakeHypervisor
from tests.support.image_factory import CONTENTS, manifest, write_image


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(image_volumes, "STALLED_S", 0.05)
    monkeypatch.setattr(image_volumes, "POLL_S", 0.01)


def load(tmp_path: Path) -> Image:
    return Image.load(write_image(tmp_path / "image"))


def test_an_image_is_read(tmp_path: Path) -> None:
    image = load(tmp_path)
    assert (image.name, image.technology, image.workload_ports) == (
        "redis",
        Technology.SIMULATED,
        (6379,),
    )
    assert set(image.launch_digests) == {1, 2}


def broken(**changes: Any) -> dict[str, Any]:
    return {**manifest(), **changes}


@pytest.mark.parametrize(
    "described",
    [
        broken(schema=2),
        broken(technology="sgx"),
        broken(name="a\nb"),
        broken(files={}),
        broken(workload={}),
        broken(files={**manifest()["files"], "vmlinuz": {"sha384": "00", "size": 600}}),
        broken(files={**manifest()["files"], "vmlinuz": {"sha384": "00" * 48, "size": 1}}),
        broken(launch_digests={"many": "00"}),
    ],
)
def test_a_manifest_that_is_not_valid_is_refused(tmp_path: Path, described: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="manifest"):
        Image.load(write_image(tmp_path / "image", described))


def test_what_is_not_an_image_is_refused_with_the_way_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Image.load(tmp_path)
    assert "sevfork guest build" in (caught.value.hint or "")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UsageError):
        Image.load(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest()))
    with pytest.raises(UsageError, match="vmlinuz"):
        Image.load(tmp_path)


def test_an_image_is_uploaded_whole_and_only_once(tmp_path: Path) -> None:
    hypervisor, image, told = FakeHypervisor(), load(tmp_path), []
    image_volumes.ensure(hypervisor.storage, image, lambda done, total: told.append((done, total)))
    total = sum(map(len, CONTENTS.values()))
    assert told[-1] == (total, total)
    for file, data in zip(image.files, CONTENTS.values(), strict=True):
        assert hypervisor.storage.files[file.volume_name] == data
    told.clear()
    image_volumes.ensure(hypervisor.storage, image, lambda done, total: told.append((done, total)))
    assert told == []


def test_an_upload_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    hypervisor, image = FakeHypervisor(), load(tmp_path)
    hypervisor.storage.files[image.root.volume_name] = bytearray(CONTENTS["root.img"][:100])
    image_volumes.ensure(hypervisor.storage, image, lambda _done, _total: None)
    assert hypervisor.storage.files[image.root.volume_name] == CONTENTS["root.img"]


def test_a_file_that_the_manifest_does_not_speak_of_is_not_left_in_the_pool(tmp_path: Path) -> None:
    hypervisor, image = FakeHypervisor(), load(tmp_path)
    (tmp_path / "image" / "root.img").write_bytes(b"toor" * 5000)
    with pytest.raises(NotAuthentic, match="root.img"):
        image_volumes.ensure(hypervisor.storage, image, lambda _done, _total: None)
    assert image.root.volume_name not in hypervisor.storage.files


def test_images_are_named_by_content(tmp_path: Path) -> None:
    image = load(tmp_path)
    for file in image.files:
        assert hashlib.sha384(file.path.read_bytes()).hexdigest()[:40] in file.volume_name


def test_unused_images_are_deleted_but_not_while_a_command_is_about_to_use_one(
    tmp_path: Path,
) -> None:
    hypervisor, image = FakeHypervisor(), load(tmp_path)
    hypervisor.storage.files["precious"] = bytearray(1)
    image_volumes.ensure(hypervisor.storage, image, lambda _done, _total: None)
    with image_volumes.in_use():
        image_volumes.delete_unused(hypervisor)
        assert len(hypervisor.storage.files) == 4
    image_volumes.delete_unused(hypervisor)
    assert set(hypervisor.storage.files) == {"precious"}
