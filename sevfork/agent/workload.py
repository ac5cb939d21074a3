"""The workload file: what a guest runs, how it is known to be ready, what happens after a fork.

TOML, read strictly: an unknown key, a wrong type or a path that is not absolute is an error, never
repaired. The same file is read when an image is built and, from the measured root, in the guest
(``/etc/sevfork/workload.toml``). Format: ``docs/guest-image.md``.
"""

from __future__ import annotations

import re
import signal
import tomllib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from sevfork.errors import UsageError
from sevfork.technology import Technology

GUEST_PATH = "/etc/sevfork/workload.toml"
# The root of a container image: nothing of the guest's root outside it is in the container.
CONTAINER_ROOT = "/usr/lib/sevfork/container"
# Directories of the guest that no workload may put files into.
RESERVED = (
    *("/etc/sevfork", "/etc/criu", "/etc/ld.so.preload"),
    *("/usr/lib/sevfork", "/usr/lib/modules"),
)
# Mounted by the guest itself, so that a file of the image would be hidden there.
MOUNTED_OVER = ("/dev", "/proc", "/run", "/sys", "/tmp")  # noqa: S108

_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")  # images have "." and "-" as well

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
PackageName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]
# A name or a number, with a group or without.
UserName = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$", max_length=100),
]
Port = Annotated[int, Meta(ge=1, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Words = Annotated[tuple[str, ...], Meta(min_length=1)]
SignalName = Annotated[str, Meta(pattern=r"^SIG[A-Z0-9]+$")]
# Who may run commands inside.
Exec = Literal["host", "never"]
# Who may read what the workload prints: nobody (it is dropped), its owner, or the host as well.
Logs = Literal["none", "guest", "host"]


class Ready(Struct, frozen=True, forbid_unknown_fields=True):
    """Ready when a TCP port of the guest accepts a connection, or when a command exits 0."""

    tcp: Port | None = None
    command: Words | None = None


class Hook(Struct, frozen=True, forbid_unknown_fields=True):
    """A command run inside the container: in a child before anything may leave it, or in a parent
    when something has happened to a child.
    """

    command: Words
    timeout_s: Seconds = 30


class Workload(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One process tree in one container. ``files`` maps a guest path to a path beside the TOML."""

    name: Name
    command: Words
    ready: Ready
    packages: tuple[PackageName, ...] = ()
    environment: dict[str, str] = {}
    user: UserName = "root"
    working_directory: str = "/"
    writable: tuple[str, ...] = ()
    ready_timeout_s: Seconds = 120
    after_fork: tuple[Hook, ...] = ()
    on_child_event: Hook | None = None
    files: dict[str, str] = {}
    ports: tuple[Port, ...] = ()
    io_uring: bool = False
    logs: Logs | None = None
    exec: Exec | None = None
    restart: Literal["never", "on-failure"] = "never"
    stop_signal: SignalName = "SIGTERM"

    def resolved(self, technology: Technology) -> Workload:
        """With the word that holds where the file has none: of what is measured, nothing else."""
        logs: Logs = self.logs or ("none" if technology.confidential else "host")
        inside: Exec = self.exec or ("never" if technology.confidential else "host")
        return msgspec.structs.replace(self, logs=logs, exec=inside)

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """All of them, whatever they are run for."""
        return (*self.after_fork, *([self.on_child_event] if self.on_child_event else []))

    @classmethod
    def load(cls, data: bytes) -> Workload:
        """Raise UsageError unless data is a well-formed workload file."""
        return cls.of(parse(data))

    @classmethod
    def of(cls, table: Mapping[str, object]) -> Workload:
        """The same of what was parsed already."""
        try:
            workload = msgspec.convert(table, cls)
        except msgspec.ValidationError as exc:
            raise UsageError(f"workload file: {exc}") from exc
        _check(workload)
        return workload


def parse(data: bytes) -> dict[str, object]:
    """A workload file as the table that it is. Raise UsageError unless it is TOML."""
    try:
        return tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise UsageError(f"workload file: not TOML: {exc}") from exc


def _check(workload: Workload) -> None:
    """What the types do not say. Raise UsageError."""
    ready = workload.ready
    _require((ready.tcp is None) != (ready.command is None), "'ready' is either 'tcp' or 'command'")
    named = workload.stop_signal in signal.Signals.__members__
    _require(named, f"'{workload.stop_signal}' is no signal")
    commands = [workload.command, *(hook.command for hook in workload.hooks)]
    for command in [*commands, *([ready.command] if ready.command else [])]:
        _check_path(command[0], "a command")
        _require(not any("\0" in word for word in command), "a command holds a zero byte")
    for path in (workload.working_directory, *workload.writable):
        _check_path(path, "a directory")
    for name, value in workload.environment.items():
        _require(bool(_ENVIRONMENT_NAME.fullmatch(name)), f"environment: bad name '{name}'")
        _require("\0" not in value, f"environment: '{name}' holds a zero byte")
    for target, source in workload.files.items():
        _check_file(target, source)


def _check_path(path: str, what: str) -> None:
    plain = "\0" not in path and not path.startswith("//") and ".." not in PurePosixPath(path).parts
    _require(
        plain and path.startswith("/") and str(PurePosixPath(path)) == path,
        f"{what} needs a plain absolute path, got '{path}'",
    )


def _check_file(target: str, source: str) -> None:
    _check_path(target, "files: a target")
    for reserved in (*RESERVED, *MOUNTED_OVER):
        inside = PurePosixPath(target).is_relative_to(reserved)
        _require(not inside, f"files: '{target}' is in '{reserved}', which is not the workload's")
    relative = PurePosixPath(source)
    _require(
        bool(source)
        and "\0" not in source
        and not relative.is_absolute()
        and ".." not in relative.parts,
        f"files: '{source}' is not a path beside the workload file",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(f"workload file: {message}")
