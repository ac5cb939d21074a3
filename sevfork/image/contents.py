"""What goes into a root file system on top of a base: the agent, its policy, the workload.

Everything is a pure mapping from path to file until ``write`` puts it into a tree.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sevfork.agent.container import users
from sevfork.agent.workload import MOUNTED_OVER, RESERVED, Workload
from sevfork.errors import UsageError
from sevfork.image.guest_root import GuestRoot
from sevfork.image.install import PYTHON_DIRECTORY
from sevfork.technology import Technology

PACKAGE = f"{PYTHON_DIRECTORY}/sevfork"
# What is measured of this package: these rooms, whole, and every module at its root; nothing else.
# The contracts in pyproject.toml say the same of who may import whom, and a test compares.
MEASURED_ROOMS = ("agent", "attest", "handshake", "seal", "wire")
# Two exceptions. The one module that a build writes anew, ...
_IMAGE_TECHNOLOGY = "agent/image_technology.py"
# ... and what asks the host for simulated evidence, which images for hardware do not have.
_SIMULATED_ONLY = ("agent/evidence/simulated.py", "wire/simulated.py")


@dataclass(frozen=True)
class File:
    data: bytes
    mode: int = 0o644


Files = dict[str, File]


def agent_files(package: Path, technology: Technology) -> Files:
    """The agent's part of the Python package in ``package``, for one technology."""
    paths = [*package.glob("*.py")]
    paths += [path for room in MEASURED_ROOMS for path in (package / room).rglob("*.py")]
    sources = {path.relative_to(package).as_posix(): path for path in paths}
    left_out = _SIMULATED_ONLY if technology.confidential else ()
    files = {
        f"{PACKAGE}/{name}": File(path.read_bytes())
        for name, path in sources.items()
        if name not in left_out
    }
    built = f'"""Written when the image was built."""\n\nTECHNOLOGY = "{technology.value}"\n'
    return {**files, f"{PACKAGE}/{_IMAGE_TECHNOLOGY}": File(built.encode())}


def firmware_files(directory: Path) -> Files:
    """The files of the recipe's directory that are in the guest as they are."""
    return {
        "usr/lib/sevfork/init": File((directory / "init").read_bytes(), 0o755),
        "etc/criu/runc.conf": File((directory / "criu/runc.conf").read_bytes()),
    }


def workload_files(workload: Workload, beside: Path) -> Files:
    """The files that the workload file names, which are ``beside`` it."""
    return {target.lstrip("/"): _source(beside / name) for target, name in workload.files.items()}


def _source(path: Path) -> File:
    try:
        return File(path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644)
    except OSError as exc:
        raise UsageError(f"workload file: cannot read '{path}': {exc.strerror}") from exc


def module_files(modules: Mapping[str, bytes]) -> Files:
    """Kernel modules (in load order) and the list that the initramfs loads them by."""
    files = {f"usr/lib/modules/{name}.ko": File(data) for name, data in modules.items()}
    return {**files, "usr/lib/modules/load": File("".join(f"{m}\n" for m in modules).encode())}


def write(root: GuestRoot, files: Mapping[str, File]) -> None:
    for name, file in files.items():
        root.write(name, file.data, file.mode)


def require_own_places(root: GuestRoot, workload: Workload) -> None:
    """Raise UsageError when a path of the workload file leads to what is not the workload's.

    Compared after resolving: ``/lib/sevfork/init`` is the agent's ``/usr/lib/sevfork/init``.
    """
    for target in workload.files:
        _require_outside(root.place(target), target, (*RESERVED, *MOUNTED_OVER))
    for directory in workload.writable:
        _require_outside(root.resolve(directory), directory, RESERVED)


def _require_outside(place: str, named: str, reserved: Iterable[str]) -> None:
    for directory in reserved:
        if PurePosixPath("/", place).is_relative_to(directory):
            raise UsageError(
                f"workload file: '{named}' is in '{directory}', which is not the workload's"
            )


def make_writable(root: GuestRoot, workload: Workload) -> None:
    """Make the workload's directories, its user's. Raise UsageError when there is no such user."""
    user = users.find(root.directory, workload.user)
    for directory in workload.writable:
        if not root.exists(directory):
            root.make_directory(directory, user.uid, user.gid)


def require_programs(root: GuestRoot, workload: Workload) -> None:
    """Raise UsageError when a program that the workload file names is not in the image."""
    commands = [workload.command, *(hook.command for hook in workload.hooks)]
    for command in [*commands, *([workload.ready.command] if workload.ready.command else [])]:
        if not root.exists(command[0]):
            raise UsageError(
                f"workload file: '{command[0]}' is not in the image",
                hint="name the Debian package that has it in 'packages'",
            )
