"""The manifest, and what a build refuses before it makes anything."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from sevfork.errors import UsageError
from sevfork.image import build, manifest_json
from sevfork.image.manifest_json import FILES, ImageManifest
from sevfork.image.verity import Verity
from sevfork.technology import Technology
from tests.support import REPOSITORY

ROOT = Verity(2, "5a", "ff" * 32)


def manifest(directory: Path, technology: Technology = Technology.SIMULATED) -> ImageManifest:
    files = manifest_json.digests(directory)
    command_line = f"console=ttyS0 {ROOT.kernel_argument}"
    return ImageManifest(
        name="web",
        technology=technology,
        fork="anyone",
        kernel_cmdline=command_line,
        cpu_model="maximum",
        files=files,
        root_hash=ROOT.root_hash,
        policy_digest="aa",
        launch_digests=manifest_json.launch_digests(technology, files, command_line, "maximum"),
        workload=manifest_json.WorkloadSummary("web", (80,), "host", "never"),
        packages={"criu": "4.2.1-1"},
        moved=(),
        epoch=1700000000,
        inputs="in",
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).write_bytes(name.encode())
    manifest_json.write(tmp_path, manifest(tmp_path))
    return tmp_path


def test_the_root_hash_is_on_the_command_line() -> None:
    assert ROOT.kernel_argument == f"sevfork.root=2,5a,{'ff' * 32}"


def test_the_manifest_says_what_the_image_is(image: Path) -> None:
    found = json.loads((image / "manifest.json").read_bytes())
    assert found["schema"] == 1
    assert found["technology"] == "simulated"
    assert found["files"]["vmlinuz"] == {
        "sha384": hashlib.sha384(b"vmlinuz").hexdigest(),
        "size": 7,
    }
    assert found["workload"] == {"name": "web", "ports": [80], "logs": "host", "exec": "never"}
    assert found["packages"] == {"criu": "4.2.1-1"}
    assert found["root_hash"] in found["kernel_cmdline"]


def test_what_is_written_is_what_is_read(image: Path) -> None:
    assert manifest_json.read(image) == manifest(image)


def test_every_key_of_the_manifest_is_documented() -> None:
    text = (REPOSITORY / "docs/guest-image.md").read_text().partition("## manifest.json")[2]
    documented = text.partition("\n## ")[0]
    assert [key for key in ImageManifest.__struct_fields__ if f"`{key}`" not in documented] == [
        "schema"
    ]


def test_each_number_of_vcpus_has_its_launch_digest(image: Path) -> None:
    digests = json.loads((image / "manifest.json").read_bytes())["launch_digests"]
    assert list(digests) == ["1", "2", "4", "8"]
    assert len(set(digests.values())) == 4
    assert all(len(bytes.fromhex(digest)) == 48 for digest in digests.values())


def test_no_launch_digest_is_made_up_for_hardware(image: Path) -> None:
    assert manifest(image, Technology.SEV_SNP).launch_digests == {}


def test_an_unchanged_image_is_current(image: Path) -> None:
    assert manifest_json.is_current(image, "in")
    assert not manifest_json.is_current(image, "other inputs")


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_damaged_or_missing_file_is_noticed(image: Path, name: str) -> None:
    content = (image / name).read_bytes()
    (image / name).write_bytes(content[:-2])
    assert not manifest_json.is_current(image, "in")
    (image / name).unlink()
    assert not manifest_json.is_current(image, "in")


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema": 1, "files": 3}', '{"files": {"a": 1}}'])
def test_a_manifest_of_something_else_is_not_current(image: Path, text: str) -> None:
    (image / "manifest.json").write_text(text)
    assert not manifest_json.is_current(image, "in")


@pytest.mark.parametrize(
    ("technology", "asked", "fork"),
    [
        (Technology.SIMULATED, None, "anyone"),
        (Technology.SEV_SNP, None, "owner"),
        (Technology.TDX, None, "owner"),
        (Technology.SIMULATED, "owner", "owner"),
        (Technology.SEV_SNP, "anyone", "anyone"),
    ],
)
def test_who_may_fork_by_default(technology: Technology, asked: str | None, fork: str) -> None:
    assert build.default_fork(technology, asked) == fork


def order(tmp_path: Path, output: Path) -> build.Order:
    return build.Order(
        output=output,
        workload=tmp_path / "none.toml",
        technology=Technology.SIMULATED,
        fork="anyone",
        firmware=tmp_path,
        cache=tmp_path / "cache",
        mirror="http://mirror.invalid/debian",
        simulator=tmp_path / "simulator",
    )


def test_a_directory_that_is_no_image_is_not_replaced(tmp_path: Path) -> None:
    output = tmp_path / "photos"
    output.mkdir()
    (output / "cat.jpg").write_text("")
    with pytest.raises(UsageError, match="is not a guest image"):
        build.build(order(tmp_path, output), lambda text: None)
    assert (output / "cat.jpg").exists()


def test_a_source_date_epoch_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
        build.source_date_epoch()
