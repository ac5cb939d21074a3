"""The file system of the workload's container: a layer on tmpfs over the measured root.

A file has the same device and inode number in a child as in its parent. What is made of the
numbers stands in ``inodes.py``; the rest is the overlay's:

- ``xino=on``: files of the lower layer keep their numbers when the workload changes them, and
  directories have any that lasts. It takes the topmost bit: such numbers are larger than 2**63;
- the device is the lowest number that no other mount has (``get_anon_bdev``), so mounts that are in
  the way, or missing, are made up for.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct

from sevfork.agent.container.mounts import mount_overlay, mount_tmpfs, unmount
from sevfork.deadline import Deadline

# Fixed here, so that a kernel's defaults do not change what is in the upper layer.
_FEATURES = "index=off,metacopy=off,redirect_dir=off,xino=on"
_DEVICE_TIMEOUT_S = 10.0
_POLL_S = 0.05


class RootFilesystem(Struct, frozen=True):
    """``layer`` holds what the workload writes over ``lower``; ``root`` is what it sees."""

    layer: Path
    root: Path
    lower: Path = Path("/")

    @property
    def upper(self) -> Path:
        return self.layer / "upper"

    def new_layer(self) -> None:
        """An empty layer, of which ``inodes.LARGEST_RESERVED`` inodes are taken."""
        if self.layer.is_mount():
            unmount(self.layer)
        self.layer.mkdir(parents=True, exist_ok=True)
        mount_tmpfs(self.layer, "mode=755,size=90%,inode64")
        for directory in (self.upper, self._work):
            directory.mkdir(mode=0o755)

    def mount(self, device: int | None = None) -> None:
        """Mount the root; with that device number if one is given."""
        self.root.mkdir(parents=True, exist_ok=True)
        if device is None:
            self._mount_overlay()
        else:
            self._mount_as(device)

    def unmount(self) -> None:
        for target in (self.root, self.layer):
            unmount(target)

    @property
    def device(self) -> int:
        """What ``stat`` tells of every file below the root."""
        return self.root.stat().st_dev

    @property
    def _work(self) -> Path:
        return self.layer / "work"

    def _mount_overlay(self) -> None:
        options = f"lowerdir={self.lower},upperdir={self.upper},workdir={self._work},{_FEATURES}"
        mount_overlay(self.root, options)

    def _mount_as(self, device: int) -> None:
        """Other mounts stand in, meanwhile, for those that the parent had and we have not."""
        late = "the child's files cannot have the device number that they had in the parent"
        self._stand_in.mkdir(exist_ok=True)
        with ExitStack() as stand_ins:
            for _ in Deadline.after(_DEVICE_TIMEOUT_S).poll(_POLL_S, late):
                self._mount_overlay()
                too_low = self.device < device
                if self.device == device:
                    return
                unmount(self.root)
                if too_low:
                    mount_tmpfs(self._stand_in, "size=4k")
                    stand_ins.callback(unmount, self._stand_in)

    @property
    def _stand_in(self) -> Path:
        return self.layer.parent / "stand-in"
