"""A capture's stream as the file that ``tarfile`` reads headers from. It only goes forward.

``tarfile`` has a mode for streams ("r|"), which cuts each header off a buffer of a MiB by copying
the rest of it, and copies a member's content several times more.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, cast

from sevfork.agent.container.archive import STEP
from sevfork.agent.engine import Source
from sevfork.errors import NotAuthentic


class ForwardFile:
    """Reads from the source's beginning; it is not to be read by anybody else meanwhile."""

    def __init__(self, source: Source) -> None:
        self._source, self._position = source, 0
        self._piece = memoryview(bytearray(STEP))

    def archive(self) -> tarfile.TarFile:
        """Raise tarfile.TarError if the source does not begin with a member's header."""
        return tarfile.TarFile(
            fileobj=cast(IO[bytes], self), encoding="utf-8", errors="surrogateescape"
        )

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        """Go on to a place in the stream, or to its end. Raise ValueError if it lies behind."""
        if position < self._position:
            raise ValueError("a stream does not go back")
        while self._position < position and self._next(position - self._position):
            """Skipped."""

    def read(self, size: int) -> bytes:
        """Fewer bytes only at the end, and none only after everything has verified."""
        data = self._source.read(size)
        self._position += len(data)
        return data

    def content(self, member: tarfile.TarInfo) -> bytes:
        """All of a member, which is not to be a large one."""
        return b"".join(map(bytes, self.pieces(member.offset_data, member.size)))

    def pieces(self, start: int, size: int) -> Iterator[memoryview]:
        """So many bytes from there on, 1 MiB or what is left, each valid until the next.

        Raises NotAuthentic if the stream ends before.
        """
        self.seek(start)
        left = size
        while left > 0:
            piece = self._next(left)
            if not piece:
                raise NotAuthentic("the capture ends within a file")
            left -= len(piece)
            yield piece

    def _next(self, most: int) -> memoryview:
        piece = self._piece[: min(most, STEP)]
        count = self._source.readinto(piece)
        self._position += count
        return piece[:count]
