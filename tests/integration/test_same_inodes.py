"""A child's files have their parent's inode numbers, on a real tmpfs under a real overlay.

Needs root, to mount them; nothing of the machine's own is touched.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sevfork.agent.container import inodes
from sevfork.agent.container.archive import Packer
from sevfork.agent.container.layer import LayerCopy
from sevfork.agent.container.mounts import unmount
from sevfork.agent.container.rootfs import RootFilesystem
from sevfork.agent.container.tree import walk, write_file
from sevfork.agent.container.unpacker import Unpacker
from sevfork.errors import SevforkError

pytestmark = [
    pytest.mark.machine,
    pytest.mark.skipif(os.getuid() != 0, reason="mounting takes root"),
]

Seen = dict[str, tuple[int, int, int, bytes]]


@dataclass
class Family:
    """Roots of one generation after another, over the same image."""

    place: Path
    image: Path
    made: list[RootFilesystem]

    def first(self) -> RootFilesystem:
        return self.mounted(None)

    def child_of(self, parent: RootFilesystem) -> RootFilesystem:
        """What is captured of a parent and unpacked, as the engine does it."""
        spool, packer = io.BytesIO(), Packer(io.BytesIO())
        copy = LayerCopy(parent.upper)
        copy.copy_running(packer, frozenset)
        copy.copy_frozen(aside := Packer(spool), frozenset)
        assert isinstance(packer.sink, io.BytesIO)
        assert aside.sink is spool
        packer.sink.write(spool.getvalue())
        packer.end()
        work = self.place / f"unpacked-{len(self.made)}"
        for name in ("images", "files"):
            (work / name).mkdir(parents=True)
        stream = io.BytesIO(packer.sink.getvalue())
        names = Unpacker(work / "images", work / "files").read(stream)
        device = parent.device
        parent.unmount()  # as in a guest of its own: its device number is free
        child = self._new()
        child.new_layer()
        inodes.fill(child.layer, work / "files", names, {})
        child.mount(device)
        return child

    def _new(self) -> RootFilesystem:
        here = self.place / f"guest-{len(self.made)}"
        made = RootFilesystem(here / "layer", here / "root", self.image)
        self.made.append(made)
        return made

    def mounted(self, device: int | None) -> RootFilesystem:
        made = self._new()
        made.new_layer()
        made.mount(device)
        return made


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    image = tmp_path / "image"
    for directory in ("etc", "opt/app", "var/lib/db"):
        (image / directory).mkdir(parents=True)
    (image / "etc/settings").write_text("as in the image")
    (image / "etc/deleted").write_text("")
    (image / "opt/app/program").write_text("program")
    (image / "opt/app/same-program").hardlink_to(image / "opt/app/program")
    family = Family(tmp_path, image, [])
    yield family
    for made in family.made:
        for place in (made.root, made.layer):
            while place.is_mount():
                unmount(place)


def seen(root: Path) -> Seen:
    """What a program can see of each path: device, inode number, links, content."""
    found = {}
    for node in walk(root):
        status = node.status
        content = b""
        if stat.S_ISREG(status.st_mode):
            content = (root / node.path).read_bytes()
        links = 0 if stat.S_ISDIR(status.st_mode) else status.st_nlink
        found[node.path] = (status.st_dev, status.st_ino, links, content)
    return found


def write_as_a_workload_does(root: Path) -> None:
    """Names, numbers and contents in no order: changed, made, moved, linked, deleted."""
    (root / "etc/settings").write_text("changed")
    (root / "etc/deleted").unlink()
    (root / "opt/app").chmod(0o750)
    for number in range(20):
        (root / f"var/lib/db/journal-{number}").write_text("gone soon")
    (root / "var/lib/db/journal-7").write_text("kept")
    for number in set(range(20)) - {7}:
        (root / f"var/lib/db/journal-{number}").unlink()
    (root / "var/lib/db/data").write_bytes(bytes(range(256)) * 5000)
    (root / "var/lib/db/link").hardlink_to(root / "var/lib/db/data")
    (root / "var/lib/db/symbolic").symlink_to("data")
    os.mkfifo(root / "var/lib/db/fifo")
    (root / "later/deep").mkdir(parents=True)  # its number is larger than that of what moves in
    (root / "var/lib/db/journal-7").rename(root / "later/deep/moved")
    (root / "var/lib/db/data").rename(root / "aaa")


def test_every_path_has_its_number_in_a_child_and_in_a_grandchild(family: Family) -> None:
    parent = family.first()
    write_as_a_workload_does(parent.root)
    before = seen(parent.root)
    child = family.child_of(parent)
    assert seen(child.root) == before
    (child.root / "var/lib/db/new").write_text("the child's own")
    numbers = [number for _, number, _, _ in before.values()]
    assert (child.root / "var/lib/db/new").stat().st_ino > max(n for n in numbers if n < 2**63)
    (child.root / "later/deep/moved").write_text("changed by the child")
    before = seen(child.root)
    assert seen(family.child_of(child).root) == before


def test_a_file_of_the_image_keeps_its_number_when_it_is_changed(family: Family) -> None:
    parent = family.first()
    before = (parent.root / "etc/settings").stat().st_ino
    (parent.root / "etc/settings").write_text("changed")
    child = family.child_of(parent)
    (child.root / "opt/app").chmod(0o700)
    assert (parent.root / "etc/settings").exists() is False
    assert (child.root / "etc/settings").stat().st_ino == before


def test_what_tells_a_guest_s_identity_is_still_the_same_file(family: Family) -> None:
    parent = family.first()
    write_file(parent.root, "etc/machine-id", b"parent\n", 0o444)
    before = (parent.root / "etc/machine-id").stat().st_ino
    child = family.child_of(parent)
    write_file(child.root, "etc/machine-id", b"child!\n", 0o444)
    assert (child.root / "etc/machine-id").read_bytes() == b"child!\n"
    assert (child.root / "etc/machine-id").stat().st_ino == before


def test_holes_stay_holes(family: Family) -> None:
    parent = family.first()
    with (parent.root / "sparse").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(600 << 20)
        file.write(b"in the middle")
    (parent.root / "linked").hardlink_to(parent.root / "sparse")
    child = family.child_of(parent)
    after = (child.root / "sparse").stat()
    assert (after.st_size, after.st_nlink) == (1 << 30, 2)
    assert after.st_blocks * 512 <= 8192
    with (child.root / "linked").open("rb") as file:
        file.seek(600 << 20)
        assert file.read(20) == b"in the middle".ljust(20, b"\0")


def test_mounts_that_are_missing_in_the_child_do_not_change_the_device(family: Family) -> None:
    parent = family.first()
    before = parent.device
    extra = family.first()  # a mount that the next has and the one before had not, and so on
    third = family.first()
    assert len({before, extra.device, third.device}) == 3
    extra.unmount()
    parent.unmount()
    assert family.mounted(third.device + 3).device == third.device + 3


def test_a_device_number_that_something_else_has_is_an_error_in_time(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sevfork.agent.container.rootfs._DEVICE_TIMEOUT_S", 0.2)
    parent = family.first()
    with pytest.raises(SevforkError, match="device number"):
        family.mounted(parent.device)
