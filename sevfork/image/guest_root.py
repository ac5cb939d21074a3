"""The guest's root file system while it is filled: by root, on the build host.

Packages bring links that mean the guest's directories (``/var/run -> /run``, ``/lib -> usr/lib``).
To follow one on the build host would write into the host. So a path is first resolved as the guest
would, and what is then opened is opened through no link at all (``agent/container/tree.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sevfork.agent.container import tree
from sevfork.errors import RefusedByGuest, UsageError


@dataclass(frozen=True)
class GuestRoot:
    """Paths are the guest's, with or without a leading slash. Raises UsageError for bad ones."""

    directory: Path

    def resolve(self, path: str) -> str:
        """Where the path leads in the guest, without a leading slash and free of links."""
        with _explained():
            return tree.resolve(self.directory, path)

    def place(self, path: str) -> str:
        """As ``resolve``, but for the last name: what would be replaced by writing there."""
        parent, _, name = path.rpartition("/")
        return f"{self.resolve(parent)}/{name}".lstrip("/")

    def real(self, path: str) -> Path:
        """The path on the build host: for reading, and for what knows no descriptors."""
        return self.directory / self.resolve(path)

    def exists(self, path: str) -> bool:
        try:
            return self.real(path).exists()
        except UsageError:
            return False  # links that go round, which lead nowhere

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Put a file in the place of what is there, unless that is a directory."""
        place = self.place(path)
        here = self.directory / place
        if here.is_dir() and not here.is_symlink():
            raise UsageError(f"'/{place}' is a directory of the image: no file can be put there")
        with _explained():
            tree.write_file(self.directory, place, data, mode)

    def make_directory(self, path: str, uid: int = 0, gid: int = 0) -> None:
        with _explained():
            tree.make_directory(self.directory, self.resolve(path), uid, gid)

    def remove(self, path: str) -> None:
        """A file, a link, or a directory with all it holds; no matter if there is none."""
        with _explained(), tree.parent_of(self.directory, self.place(path)) as (parent, name):
            tree.remove(parent, name)

    def matching(self, pattern: str) -> list[str]:
        """Paths by a pattern; what it finds through a link is left out, wherever that leads."""
        found = sorted(self.directory.glob(pattern))
        paths = [path.relative_to(self.directory).as_posix() for path in found]
        return [path for path in paths if self.place(path) == path]


@contextmanager
def _explained() -> Iterator[None]:
    """What the guest's side refuses is, at a build, a path in the workload file or recipe."""
    try:
        yield
    except RefusedByGuest as exc:
        raise UsageError(f"guest image: {exc.message}") from exc
