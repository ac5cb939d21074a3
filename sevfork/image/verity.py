"""The root file system: uncompressed erofs, with its dm-verity hash tree right behind it."""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from sevfork.errors import HostCannot
from sevfork.process import run

BLOCK_SIZE = 4096
# Fixed, so that the same content gives the same image; a salt needs to be neither secret nor new.
SALT = hashlib.sha256(b"sevfork/1 root").hexdigest()
_UUID = uuid.uuid5(uuid.NAMESPACE_URL, "https://sevfork.org/guest-root/1")
_ROOT_HASH = re.compile(r"^Root hash:\s+([0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True)
class Verity:
    """``data_blocks`` of 4096 bytes; hexadecimal salt and root hash (SHA-256)."""

    data_blocks: int
    salt: str
    root_hash: str

    @property
    def kernel_argument(self) -> str:
        """What the initramfs script reads from the measured command line."""
        return f"sevfork.root={self.data_blocks},{self.salt},{self.root_hash}"


def make_root(tree: Path, image: Path, epoch_s: int, *, attributes: bool = False) -> Verity:
    """Write ``image`` from the files of ``tree``. ``attributes``: extended ones, which a build
    host may have given as well, are kept.
    """
    run(
        [
            "mkfs.erofs",
            "--quiet",
            "-x2" if attributes else "-x-1",
            f"-T{epoch_s}",
            f"-U{_UUID}",
            image,
            tree,
        ],
        timeout_s=600,
    )
    size = image.stat().st_size
    if size % BLOCK_SIZE:
        raise HostCannot(f"mkfs.erofs made an image of {size} bytes, not of whole blocks")
    return Verity(size // BLOCK_SIZE, SALT, _append_hash_tree(image, size))


def _append_hash_tree(image: Path, offset: int) -> str:
    """The root hash. No superblock: the sizes stand on the command line, which is measured."""
    printed = run(
        ["veritysetup", "format", "--no-superblock", "--hash=sha256", f"--salt={SALT}"]
        + [f"--data-block-size={BLOCK_SIZE}", f"--hash-block-size={BLOCK_SIZE}"]
        + [f"--data-blocks={offset // BLOCK_SIZE}", f"--hash-offset={offset}"]
        + [str(image), str(image)],
        timeout_s=600,
    ).stdout
    found = _ROOT_HASH.search(printed)
    if not found:
        raise HostCannot("veritysetup printed no root hash")
    return found[1]
