"""The initramfs: static busybox, dmsetup with its libraries, a few modules, one script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sevfork.image import cpio

# The commands of busybox that the script uses; there are no others in the guest.
APPLETS = (*("sh", "mount", "insmod", "cat", "mkdir", "ln", "tr", "ip", "switch_root", "echo"),)
_DIRECTORIES = ("bin", "dev", "modules", "proc", "root", "sys")


def entries(
    programs: Mapping[str, bytes], modules: Mapping[str, bytes], script: bytes
) -> dict[str, cpio.Entry]:
    """The archive's files. ``programs``: path to content; ``modules``: in load order."""
    found: dict[str, cpio.Entry] = {name: cpio.directory() for name in _DIRECTORIES}
    found |= {f"bin/{name}": cpio.symlink("/usr/bin/busybox") for name in APPLETS}
    found["bin/dmsetup"] = cpio.symlink("/usr/sbin/dmsetup")
    found |= {path: cpio.file(data, 0o755) for path, data in programs.items()}
    found |= {f"modules/{name}.ko": cpio.file(data) for name, data in modules.items()}
    found["modules/load"] = cpio.file("".join(f"{name}\n" for name in modules).encode())
    found["dev/console"] = cpio.character_device(5, 1)
    found["init"] = cpio.file(script, 0o755)
    parents = {str(p) for path in found for p in Path(path).parents if str(p) != "."}
    return {**{path: cpio.directory() for path in parents}, **found}


def programs(directory: Path) -> dict[str, bytes]:
    """The files below a directory: path in it to content."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}
