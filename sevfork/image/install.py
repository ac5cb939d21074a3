"""From packages to a root file system: installed, pruned, compiled and settled, in a tree.

The steps that ``base.py`` takes in turn. What runs inside the tree runs by ``chroot``; what is
written from outside goes through ``GuestRoot``.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from sevfork.agent.container import tree
from sevfork.image.guest_root import GuestRoot
from sevfork.image.packages import Package, local_index, names
from sevfork.process import CommandFailed, run

PYTHON_DIRECTORY = "usr/lib/sevfork/python"
COMPILED = (f"/{PYTHON_DIRECTORY}", "/usr/lib/python3.13", "/usr/lib/python3/dist-packages")
_INITRAMFS_PROGRAMS = ("usr/bin/busybox", "usr/sbin/dmsetup")
_PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")


def bootstrap(
    repository: Path, fetched: Path, packages: Sequence[Package], target: Path, epoch_s: int
) -> None:
    """Install exactly the given packages, from a repository that holds nothing else."""
    repository.mkdir()
    for package in packages:
        os.link(fetched / package.file_name, repository / package.file_name)
    (repository / "Packages").write_text(local_index(packages) + "\n")
    source = f"deb [trusted=yes] copy:{repository} ./"  # each file's SHA-256 was checked
    run(
        ["mmdebstrap", "--mode=root", "--format=directory", "--variant=custom", "--quiet"]
        + ["--dpkgopt=force-unsafe-io"]  # 8000 fsyncs become 3000 (measured)
        + [f"--include={','.join(names(packages))}", "", str(target), source],
        timeout_s=900,
        env={"SOURCE_DATE_EPOCH": str(epoch_s)},
    )


def take_programs(root: GuestRoot, target: Path) -> None:
    """Copy the initramfs's programs, and the libraries that the loader would give them."""
    for program in _INITRAMFS_PROGRAMS:
        for path in [program, *_libraries(root, program)]:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root.real(path), target / path)


def _libraries(root: GuestRoot, program: str) -> list[str]:
    """The shared libraries of a program, as paths in the tree; none for a static one."""
    try:
        listing = run(["chroot", root.directory, "ldd", f"/{program}"], timeout_s=60).stdout
    except CommandFailed as exc:
        if "not a dynamic executable" in exc.output:
            return []
        raise
    words = [word for line in listing.splitlines() for word in line.split()]
    return [word.lstrip("/") for word in words if word.startswith("/")]


def prune(root: GuestRoot, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        for path in root.matching(pattern):
            root.remove(path)


def unpack_wheels(requirements: str, downloads: Path, root: GuestRoot) -> None:
    """Fetch the pinned wheels and unpack them; nothing of them is run here."""
    downloads.mkdir()
    (downloads / "requirements.txt").write_text(requirements)
    platforms = [f"--platform={name}_x86_64" for name in _PLATFORMS]
    run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        + ["--only-binary=:all:", "--python-version=3.13", *platforms]
        + ["--dest", str(downloads), "--requirement", str(downloads / "requirements.txt")],
        timeout_s=600,
    )
    for wheel in sorted(downloads.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    root.write(f"{PYTHON_DIRECTORY}/{member.filename}", archive.read(member))


def compile_python(root: GuestRoot, directories: Sequence[str]) -> None:
    """Byte-compile with the guest's own Python. Unchecked: the root file system never changes."""
    run(
        ["chroot", str(root.directory), "/usr/bin/python3", "-I", "-m", "compileall", "-q", "-f"]
        + ["--invalidation-mode=unchecked-hash", *directories],
        timeout_s=600,
        env={"PYTHONHASHSEED": "0"},
    )


def settle(root: GuestRoot) -> None:
    """What a read-only root needs: its mount points, its fixed names, no set-uid program."""
    for name in ("dev", "proc", "run", "sys", "tmp", "var/tmp"):
        root.make_directory(name)
    root.real("dev/shm").chmod(0o1777)
    root.write("etc/machine-id", b"")  # init binds this boot's over it
    root.write("etc/hostname", b"sevfork\n")
    root.write("etc/hosts", b"127.0.0.1 localhost\n")
    root.write("etc/resolv.conf", b"nameserver 10.0.2.3\n")
    for node in tree.walk(root.directory):
        mode = node.status.st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            Path(node.real_path).chmod(stat.S_IMODE(mode) & 0o777)
