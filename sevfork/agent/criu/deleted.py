"""Files that were deleted while the workload had them open: theirs is a number too.

CRIU keeps such a file in an image of its own and makes it again in a child, whenever it comes to
that; so it would get whatever inode number is next. But CRIU also knows files that lost the name
under which they were opened and have another, which is deleted once they are open again ("link
remap", files-reg.c of CRIU 4.2). So the file is made here, with its number, and CRIU's images are
changed to say that it has another name.

Messages used here:
``remap_file_path_entry`` 1 = the open file's id, 2 = what it is now, 3 = type; ``ghost_file_entry``
1 = uid, 2 = gid, 3 = mode, 5 = inode number, 7 and 8 = times, 9 = stored in chunks, 10 = size;
``ghost_chunk_entry`` 1 = length, 2 = offset; ``file_entry`` 1 = type, 2 = id, 3 =
``reg_file_entry`` {1 = id, 2 = flags, 3 = position, 5 = owner, 6 = name}.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from sevfork.agent.container.holes import Range, move
from sevfork.agent.container.inodes import LARGEST, LARGEST_RESERVED, Make, Name
from sevfork.agent.container.tree import new_file
from sevfork.agent.criu.images import HEAD_SIZE, SIZE, messages, write
from sevfork.agent.criu.rpc import Value, blob, decode, encode, number

REMAPS, FILES = "remap-fpath.img", "files.img"
_REMAPS_MAGIC, _FILES_MAGIC = 0x59133954, 0x56303138
_LINKED, _GHOST = 0, 1
_REGULAR = 1  # file_entry's type
_OWNER = encode({1: 0, 2: 0, 3: 0, 4: 0, 5: 0})  # fown_entry: nobody gets signals


class DeletedFile(Struct, frozen=True):
    """A deleted regular file, as its image tells of it."""

    image: Path
    entry: dict[int, Value]

    @classmethod
    def read(cls, image: Path) -> DeletedFile:
        with image.open("rb") as file:
            file.seek(HEAD_SIZE)
            size = int.from_bytes(file.read(SIZE), "little")
            return cls(image, decode(file.read(size)))

    @property
    def number(self) -> int:
        return self._field(5)

    @property
    def can_be_named(self) -> bool:
        """Not a directory or the like; and not one of the image's own, whose numbers are larger."""
        is_regular = stat.S_ISREG(self._field(3))
        return is_regular and LARGEST_RESERVED < self.number <= LARGEST

    def make(self, directory: int, name: str) -> None:
        """Make it there, with what its image holds, which is gone then."""
        source = os.open(self.image, os.O_RDWR | os.O_CLOEXEC)
        try:
            parts = list(self._parts(source))
            size = self._field(10) or sum(part.size for part, _ in parts)
            with new_file(directory, name, size) as target:
                move(source, target, parts)
                os.fchown(target, self._field(1), self._field(2))
                os.fchmod(target, stat.S_IMODE(self._field(3)))
                os.utime(target, ns=(self._time_ns(7), self._time_ns(8)))
        finally:
            os.close(source)
        self.image.unlink()

    def _field(self, key: int) -> int:
        return number(self.entry.get(key, 0))

    def _time_ns(self, key: int) -> int:
        time = decode(blob(self.entry.get(key, b"")))  # timeval: 1 = seconds, 2 = microseconds
        return (number(time.get(1, 0)) * 10**6 + number(time.get(2, 0))) * 1000

    def _parts(self, source: int) -> Iterator[tuple[Range, int]]:
        """Where the content lies in the image, and where it belongs."""
        position = HEAD_SIZE + SIZE + _read_size(source, HEAD_SIZE)
        end = os.fstat(source).st_size
        if not self._field(9):
            yield Range(position, end - position), 0
            return
        while position < end:
            size = _read_size(source, position)
            chunk = decode(os.pread(source, size, position + SIZE))
            part = Range(position + SIZE + size, number(chunk.get(1, 0)))
            yield part, number(chunk.get(2, 0))
            position = part.end


def _read_size(descriptor: int, position: int) -> int:
    return int.from_bytes(os.pread(descriptor, SIZE, position), "little")


def name_deleted_files(images: Path) -> dict[Name, Make]:
    """Change CRIU's images so that deleted files are links; what must be made, and how.

    The names are in the root directory; CRIU deletes them.
    """
    if not (images / REMAPS).exists():
        return {}
    remaps = messages((images / REMAPS).read_bytes(), _REMAPS_MAGIC)
    files = messages((images / FILES).read_bytes(), _FILES_MAGIC)
    next_id = max((number(decode(entry).get(2, 0)) for entry in files), default=0) + 1
    ids: dict[int, int] = {}
    deleted: dict[Name, Make] = {}
    for position, entry in enumerate(map(decode, remaps)):
        file = _deleted_file(images, entry)
        if file is None:
            continue
        name = Name(file.number, f".sevfork-deleted-{file.number}")
        if name not in deleted:
            ids[file.number] = next_id + len(ids)
            files.append(_file_entry(ids[file.number], name.path))
            deleted[name] = file.make
        entry.update({2: ids[file.number], 3: _LINKED})
        remaps[position] = encode(entry)
    write(images / REMAPS, _REMAPS_MAGIC, remaps)
    write(images / FILES, _FILES_MAGIC, files)
    return deleted


def _deleted_file(images: Path, entry: dict[int, Value]) -> DeletedFile | None:
    """What a remap leads to, if that is a deleted file that can have a name."""
    if entry.get(3) != _GHOST:
        return None
    file = DeletedFile.read(images / f"ghost-file-{number(entry.get(2, 0)):x}.img")
    return file if file.can_be_named else None


def _file_entry(file_id: int, path: str) -> bytes:
    regular: dict[int, Value] = {1: file_id, 2: 0, 3: 0, 5: _OWNER, 6: f"/{path}"}
    entry: dict[int, Value] = {1: _REGULAR, 2: file_id, 3: encode(regular)}
    return encode(entry)
