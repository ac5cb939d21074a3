"""A container image's configuration as the keys of a workload file.

What the workload file says takes the place of what the image says; environment, ports and
directories are added. The outcome is a workload like any other, and is read as strictly.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import msgspec
from msgspec import Struct, field

from sevfork.errors import UsageError

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHELL = ("/bin/sh", "-c")
_NS_PER_S = 10**9
_USUAL_TIMEOUT_S, _LONGEST_TIMEOUT_S = 120, 3600
# Docker's, where an image leaves them out.
_INTERVAL_S, _CHECK_TIMEOUT_S, _RETRIES = 30, 30, 3


class _Healthcheck(Struct, frozen=True, rename="pascal"):
    """``Test``: NONE, CMD and words, or CMD-SHELL and a line. Times in nanoseconds."""

    test: tuple[str, ...] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    retries: int = 0

    @property
    def patience_s(self) -> int:
        """How long an image may take until its check holds, before it would count as unhealthy."""
        interval = self.interval // _NS_PER_S or _INTERVAL_S
        timeout = self.timeout // _NS_PER_S or _CHECK_TIMEOUT_S
        checks = (interval + timeout) * (self.retries or _RETRIES)
        return self.start_period // _NS_PER_S + checks


class _Config(Struct, frozen=True, rename="pascal"):
    user: str | None = None
    exposed_ports: dict[str, Any] | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: dict[str, Any] | None = None
    working_dir: str | None = None
    healthcheck: _Healthcheck | None = None
    shell: tuple[str, ...] | None = None
    stop_signal: str | None = None


class _Image(Struct, frozen=True):
    os: str = ""
    architecture: str = ""
    config: _Config | None = field(default=None)


# Where a program lies in the image, by its name, PATH and the working directory; None: nowhere.
Locate = Callable[[str, str, str], str | None]


def workload_table(
    configuration: bytes, file: Mapping[str, object], name: str, locate: Locate
) -> dict[str, object]:
    """The workload file's keys, completed by the image's. Raise UsageError for what cannot be."""
    config = _read(configuration)
    if "packages" in file:
        raise UsageError(
            "workload file: 'packages' and a container image exclude each other",
            hint="install them into the container image, where it is built",
        )
    taken = _taken(config, name)
    taken = {key: value for key, value in taken.items() if key not in file}
    table: dict[str, object] = {**taken, **file, **_added(config, file)}
    _complete_ready(table, config, file)
    _locate_programs(table, file, locate)
    return table


def _read(configuration: bytes) -> _Config:
    try:
        image = msgspec.json.decode(configuration, type=_Image)
    except msgspec.DecodeError as exc:
        raise UsageError(f"container image: its configuration: {exc}") from exc
    if (image.os, image.architecture) != ("linux", "amd64"):
        raise UsageError(
            f"container image: it is for {image.os or '?'}/{image.architecture or '?'}, "
            "and guests are linux/amd64"
        )
    return image.config or _Config()


def _taken(config: _Config, name: str) -> dict[str, object]:
    """What stands in the image's configuration, unless the workload file says it."""
    taken: dict[str, object] = {"name": name}
    command = [*(config.entrypoint or ()), *(config.cmd or ())]
    if command:
        taken["command"] = command
    if config.user:
        taken["user"] = config.user
    if config.working_dir:
        taken["working_directory"] = _plain(config.working_dir, "/")
    if config.stop_signal:
        taken["stop_signal"] = _signal(config.stop_signal)
    if config.healthcheck:
        patience = max(config.healthcheck.patience_s, _USUAL_TIMEOUT_S)
        taken["ready_timeout_s"] = min(patience, _LONGEST_TIMEOUT_S)
    return taken


def _signal(text: str) -> str:
    """``SIGQUIT``, which images may write as QUIT or 3. What is none is left to be refused."""
    if text.isdigit():
        return next((each.name for each in signal.Signals if each.value == int(text)), text)
    return text if text.startswith("SIG") else f"SIG{text}"


def _added(config: _Config, file: Mapping[str, object]) -> dict[str, object]:
    """What both say, the workload file's first. What is not well formed there is left as it is."""
    added: dict[str, object] = {}
    environment, ports, writable = (file.get(k) for k in ("environment", "ports", "writable"))
    if environment is None or isinstance(environment, dict):
        added["environment"] = {**_environment(config), **(environment or {})}
    if ports is None or isinstance(ports, list):
        added["ports"] = _unique([*(ports or ()), *_ports(config)])
    if writable is None or isinstance(writable, list):
        volumes = sorted(_plain(path, "/") for path in config.volumes or {})
        added["writable"] = _unique([*(writable or ()), *volumes])
    return added


def _environment(config: _Config) -> dict[str, str]:
    pairs = (assignment.partition("=") for assignment in config.env or ())
    return {name: value for name, _, value in pairs}


def _ports(config: _Config) -> list[int]:
    """Of TCP. UDP ports cannot be published."""
    found = []
    for text in config.exposed_ports or {}:
        number, _, protocol = text.partition("/")
        if protocol in ("", "tcp"):
            if not number.isdigit() or len(number) > 5:
                raise UsageError(f"container image: exposes '{text}', which is no port")
            found.append(int(number))
    return sorted(found)


def _complete_ready(table: dict[str, object], config: _Config, file: Mapping[str, object]) -> None:
    """Where the workload file has no ``ready``: the health check, else the first TCP port."""
    if "command" not in table:
        raise UsageError(
            "container image: it has neither an entry point nor a command",
            hint='write command = ["/path/of/program"] into a workload file',
        )
    if "ready" in file:
        return
    check, ports = _check_command(config), table.get("ports")
    if check:
        table["ready"] = {"command": check}
    elif isinstance(ports, list) and ports:
        table["ready"] = {"tcp": ports[0]}
    else:
        raise UsageError(
            "container image: nothing says when its workload is ready: "
            "it has no health check and exposes no TCP port",
            hint="write ready = { tcp = PORT } or ready = { command = [...] } into a workload file",
        )


def _check_command(config: _Config) -> list[str] | None:
    test = config.healthcheck.test if config.healthcheck else None
    if not test or test[0] == "NONE":
        return None
    if test[0] == "CMD" and len(test) > 1:
        return list(test[1:])
    if test[0] == "CMD-SHELL" and len(test) == 2:
        return [*(config.shell or _SHELL), test[1]]
    raise UsageError(f"container image: its health check '{' '.join(test)}' is none that is known")


def _locate_programs(table: dict[str, object], file: Mapping[str, object], locate: Locate) -> None:
    """Images name programs as a shell does; a workload file has absolute paths."""
    environment = table.get("environment")
    path = environment.get("PATH", PATH) if isinstance(environment, dict) else PATH
    directory = str(table.get("working_directory", "/"))
    if "command" not in file:
        table["command"] = _located(table["command"], path, directory, locate)
    ready = table.get("ready")
    if "ready" not in file and isinstance(ready, dict) and "command" in ready:
        table["ready"] = {"command": _located(ready["command"], path, directory, locate)}


def _located(command: object, path: str, directory: str, locate: Locate) -> list[str]:
    words = list(command) if isinstance(command, Sequence) else []
    found = locate(words[0], path, directory)
    if found is None:
        raise UsageError(f"container image: its program '{words[0]}' is not in the image")
    return [found, *words[1:]]


def candidates(program: str, path: str, directory: str) -> list[str]:
    """Where a program of that name may lie, in order, as ``execvp`` would look."""
    if "/" in program:
        return [_plain(program, directory)]
    return [_plain(program, _plain(part, directory)) for part in path.split(":")]


def _plain(path: str, directory: str) -> str:
    """Absolute, without ``.``, double slashes and a slash at the end; ``..`` as it is written."""
    parts = [part for part in PurePosixPath(directory, path).parts if part.strip("/")]
    return "/" + "/".join(parts)


def _unique(values: Sequence[object]) -> list[object]:
    return list(dict.fromkeys(values))
