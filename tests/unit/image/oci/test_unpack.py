"""What is made of an unpacked image, whatever it holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sevfork.errors import UsageError
from sevfork.image import fork_id
from sevfork.image.guest_root import GuestRoot
from sevfork.image.oci import unpack
from sevfork.image.oci.fetch import LARGEST_FILE


@pytest.fixture(autouse=True)
def _no_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Owners can be given by root alone."""
    monkeypatch.setattr(os, "fchown", lambda *_: None)


def test_an_empty_image_gets_what_every_container_finds(tmp_path: Path) -> None:
    unpack.settle(GuestRoot(tmp_path))
    for name in ("dev", "dev/shm", "proc", "sys", "run/sevfork", "tmp", "etc"):
        assert (tmp_path / name).is_dir()
    assert (tmp_path / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (tmp_path / "etc/hosts").read_text() == "127.0.0.1 localhost\n"


def test_links_of_an_image_lead_nowhere(tmp_path: Path) -> None:
    """What is written goes to the place of the link, and never where it leads."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "etc").mkdir(parents=True)
    (root / "run").mkdir()
    outside.mkdir()
    (outside / "hosts").write_text("the host's")
    for name in ("etc/hosts", "etc/resolv.conf", "etc/machine-id", "etc/hostname"):
        (root / name).symlink_to(outside / "hosts")
    for name in ("dev", "proc", "sys", "run/sevfork"):
        (root / name).symlink_to(outside)
    unpack.settle(GuestRoot(root))
    assert (outside / "hosts").read_text() == "the host's"
    assert [path.name for path in outside.iterdir()] == ["hosts"]
    for name in ("etc/hosts", "dev", "proc", "sys", "run/sevfork"):
        assert not (root / name).is_symlink()


@pytest.mark.parametrize("name", ["etc", "run"])
def test_what_the_agent_writes_in_has_to_be_a_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("elsewhere")
    with pytest.raises(UsageError, match=f"'/{name}' is no directory"):
        unpack.settle(GuestRoot(tmp_path))


def test_attributes_that_are_not_the_containers_go(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    try:
        os.setxattr(file, "user.kept", b"1")
    except OSError:
        pytest.skip("no extended attributes here")
    unpack.tame(tmp_path)
    assert os.listxattr(file) == ["user.kept"]


def test_more_than_fits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(UsageError, match=r"holes in a file count"):
        unpack.tame(tmp_path)
    (tmp_path / "holes").unlink()
    monkeypatch.setattr(unpack, "_MOST_FILES", 3)
    for name in "abcd":
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match="more than 3 files"):
        unpack.tame(tmp_path)


def roots(tmp_path: Path, libc: bytes | None) -> tuple[GuestRoot, GuestRoot]:
    """A guest with the library that notices forks, and a container with that C library."""
    guest, container = tmp_path / "guest", tmp_path / "container"
    for directory in (guest / "usr/lib/sevfork", container / "lib64", container / "usr/lib64"):
        directory.mkdir(parents=True)
    (guest / fork_id.LIBRARY).write_bytes(b"library")
    if libc is not None:
        (container / "lib64/ld-linux-x86-64.so.2").touch()
        (container / "usr/lib64/libc.so.6").write_bytes(libc)
    return GuestRoot(guest), GuestRoot(container)


def test_an_image_with_glibc_gets_the_library_that_notices_forks(tmp_path: Path) -> None:
    guest, container = roots(tmp_path, b"..\0GLIBC_2.34\0GLIBC_2.36\0")
    container.write("etc/ld.so.preload", b"/lib/theirs.so\n")
    assert fork_id.share(guest, container)
    assert (container.directory / fork_id.LIBRARY).read_bytes() == b"library"
    preload = (container.directory / "etc/ld.so.preload").read_text()
    assert preload == f"/{fork_id.LIBRARY}\n/lib/theirs.so\n"


@pytest.mark.parametrize("libc", [None, b"..\0GLIBC_2.31\0", b"musl"])
def test_an_image_that_cannot_have_it_is_left_alone(tmp_path: Path, libc: bytes | None) -> None:
    guest, container = roots(tmp_path, libc)
    assert not fork_id.share(guest, container)
    assert not (container.directory / "etc").exists()
