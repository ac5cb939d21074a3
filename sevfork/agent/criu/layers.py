"""What was unpacked of a chain of captures, and waits to be restored."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from sevfork.agent.container import inodes
from sevfork.agent.container.unpacker import Unpacker
from sevfork.agent.criu.comb import comb
from sevfork.agent.criu.page_maps import PARENT
from sevfork.agent.criu.settled import settle
from sevfork.agent.engine import Source
from sevfork.errors import NotAuthentic, WrongState

LAST = "last"
_SETTLED = "settled"
# Of a copy on which others build, CRIU wants these and nothing else.
_MEMORY = ("pagemap-", "pages-", PARENT)


def copy_name(layer: int, copy: int | str) -> str:
    """The directory of one of CRIU's copies. No two of a chain have the same."""
    return f"{layer}-{copy}"


class Layers(Struct):
    """``images`` has CRIU's copies, ``files`` the workload's files, as of the last layer."""

    images: Path
    files: Path
    names: Sequence[inodes.Name] = ()
    _count: int = 0
    _settled: Path | None = None
    _unpacker: Unpacker | None = None

    @property
    def last(self) -> Path:
        """The final copy. Raise WrongState if nothing was unpacked."""
        if not self._count:
            raise WrongState("nothing was unpacked that could be restored")
        return self.images / copy_name(self._count - 1, LAST)

    def add(self, source: Source) -> None:
        """Read one more layer to its end. After an error there are none any more."""
        try:
            self._add(source)
        except BaseException:
            self.clear()
            raise

    def _add(self, source: Source) -> None:
        if self._unpacker is None:
            self.clear()
            for directory in (self.images, self.files):
                directory.mkdir(parents=True)
            self._unpacker = Unpacker(self.images, self.files)
        self.names = tuple(self._unpacker.read(source))
        self._count += 1
        self._keep_what_the_last_needs()

    def clear(self) -> None:
        for directory in (self.images, self.files):
            shutil.rmtree(directory, ignore_errors=True)
        self.names, self._count, self._unpacker, self._settled = (), 0, None, None

    def settle(self) -> None:
        """Make one of all copies of memory. After an error nothing is unpacked any more."""
        try:
            settle(self._chain(), self.images / _SETTLED)
        except BaseException:
            self.clear()
            raise
        self._settled = self.last

    def comb(self) -> None:
        """What was not settled. No layer can be added afterwards."""
        comb(itertools.takewhile(lambda copy: copy != self._settled, self._chain()))

    def _keep_what_the_last_needs(self) -> None:
        """Remove copies on which nothing builds, and what is asked for in the last one only."""
        chain = self._chain()
        for copy in self.images.iterdir():
            if copy not in chain:
                shutil.rmtree(copy)
        for copy in chain[1:]:
            for path in copy.iterdir():
                if not path.name.startswith(_MEMORY):
                    path.unlink()

    def _chain(self) -> list[Path]:
        """The last copy, and each on which the one before it builds."""
        chain = [self.last]
        if not self.last.is_dir():
            raise NotAuthentic("the capture is not the one that follows")
        while (chain[-1] / PARENT).is_symlink():
            chain.append(self._linked(chain[-1]))
            if len(chain) > len(list(self.images.iterdir())):
                raise NotAuthentic("the capture's copies build on each other")
        return chain

    def _linked(self, copy: Path) -> Path:
        link = (copy / PARENT).readlink()
        parent = self.images / link.name
        if link != Path("..", link.name) or parent.is_symlink() or not parent.is_dir():
            raise NotAuthentic("the capture builds on a copy that is not there")
        return parent
