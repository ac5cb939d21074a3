"""An image's configuration and a workload file become one workload."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest

from sevfork.agent.workload import Hook, Ready, Workload
from sevfork.errors import UsageError
from sevfork.image.oci import toml
from sevfork.image.oci.config import candidates, workload_table

PROGRAMS = {"/usr/sbin/nginx", "/entry.sh", "/app/run", "/bin/check", "/bin/sh"}
NGINX: dict[str, Any] = {
    "Cmd": ["nginx", "-g", "daemon off;"],
    "ExposedPorts": {"443/tcp": {}, "80/tcp": {}, "443/udp": {}},
}


def locate(program: str, path: str, directory: str) -> str | None:
    return next((c for c in candidates(program, path, directory) if c in PROGRAMS), None)


def taken(config: dict[str, Any] | None, file: dict[str, Any] | None = None) -> Workload:
    """What a guest reads of it."""
    image: dict[str, Any] = {
        "os": "linux",
        "architecture": "amd64",
        "config": config,
        "history": [{}],
    }
    table = workload_table(json.dumps(image).encode(), file or {}, "web", locate)
    return Workload.load(toml.render(table))


def test_a_plain_image_needs_no_workload_file() -> None:
    workload = taken(NGINX)
    assert workload.name == "web"
    assert workload.command == ("/usr/sbin/nginx", "-g", "daemon off;")
    assert workload.ports == (80, 443)
    assert workload.ready == Ready(tcp=80)
    assert (workload.user, workload.working_directory) == ("root", "/")


def test_an_entry_point_comes_before_the_command() -> None:
    workload = taken({**NGINX, "Entrypoint": ["/entry.sh"]})
    assert workload.command == ("/entry.sh", "nginx", "-g", "daemon off;")


def test_a_program_is_looked_for_from_the_working_directory() -> None:
    workload = taken({**NGINX, "Cmd": ["./run"], "WorkingDir": "/app/"})
    assert (workload.command, workload.working_directory) == (("/app/run",), "/app")


def test_a_program_is_looked_for_in_the_images_path() -> None:
    workload = taken({**NGINX, "Cmd": ["run"], "Env": ["PATH=/nowhere:/app", "A=1=2", "B"]})
    assert workload.command == ("/app/run",)
    assert workload.environment == {"PATH": "/nowhere:/app", "A": "1=2", "B": ""}


@pytest.mark.parametrize("user", ["1000", "1000:50", "www-data", "App:staff", "0:0"])
def test_users_of_every_kind(user: str) -> None:
    assert taken({**NGINX, "User": user}).user == user


@pytest.mark.parametrize("empty", [None, ""])
def test_no_user_is_root(empty: str | None) -> None:
    assert taken({**NGINX, "User": empty}).user == "root"


@pytest.mark.parametrize("text", ["SIGQUIT", "QUIT", "3"])
def test_the_stop_signal_by_any_of_its_names(text: str) -> None:
    assert taken({**NGINX, "StopSignal": text}).stop_signal == "SIGQUIT"


def test_volumes_are_writable() -> None:
    workload = taken({**NGINX, "Volumes": {"/data/": {}, "/b": {}}}, {"writable": ["/b", "/a"]})
    assert workload.writable == ("/b", "/a", "/data")


@pytest.mark.parametrize(
    ("test", "command"),
    [
        (["CMD", "/bin/check", "x"], ("/bin/check", "x")),
        (["CMD", "check"], ("/bin/check",)),
        (["CMD-SHELL", "check || exit 1"], ("/bin/sh", "-c", "check || exit 1")),
    ],
)
def test_a_health_check_becomes_readiness(test: list[str], command: tuple[str, ...]) -> None:
    assert taken({**NGINX, "Healthcheck": {"Test": test}}).ready == Ready(command=command)


@pytest.mark.parametrize("test", [["NONE"], [], None])
def test_without_a_health_check_a_port_is_readiness(test: list[str] | None) -> None:
    assert taken({**NGINX, "Healthcheck": {"Test": test}}).ready == Ready(tcp=80)


def test_a_health_checks_times_say_how_long_to_wait() -> None:
    second = 10**9
    check = {"Test": ["CMD", "/bin/check"], "StartPeriod": 300 * second, "Interval": 10 * second}
    times = {**check, "Timeout": 5 * second, "Retries": 4}
    assert taken({**NGINX, "Healthcheck": times}).ready_timeout_s == 360
    assert taken({**NGINX, "Healthcheck": check}).ready_timeout_s == 420
    endless = {**check, "StartPeriod": 10**6 * second}
    assert taken({**NGINX, "Healthcheck": endless}).ready_timeout_s == 3600


def test_a_workload_file_takes_the_images_place_and_adds() -> None:
    file = {
        "name": "mine",
        "command": ["/app/run"],
        "user": "1:1",
        "environment": {"A": "mine"},
        "ports": [9000],
        "ready": {"tcp": 9000},
        "after_fork": [{"command": ["/bin/check"]}],
    }
    workload = taken({**NGINX, "Env": ["A=theirs", "C=theirs"], "User": "www-data"}, file)
    assert (workload.name, workload.command, workload.user) == ("mine", ("/app/run",), "1:1")
    assert workload.environment == {"A": "mine", "C": "theirs"}
    assert workload.ports == (9000, 80, 443)
    assert workload.ready == Ready(tcp=9000)
    assert workload.after_fork == (Hook(command=("/bin/check",)),)


def test_ports_of_the_workload_file_are_readiness_first() -> None:
    assert taken(NGINX, {"ports": [9000]}).ready == Ready(tcp=9000)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "neither an entry point nor a command"),
        ({"Cmd": []}, "neither an entry point nor a command"),
        ({"Cmd": ["nginx"]}, "nothing says when its workload is ready"),
        ({"Cmd": ["nginx"], "ExposedPorts": {"53/udp": {}}}, "nothing says when"),
        ({**NGINX, "Cmd": ["gone"]}, "'gone' is not in the image"),
        ({**NGINX, "Healthcheck": {"Test": ["CMD", "gone"]}}, "'gone' is not in the image"),
        ({**NGINX, "Healthcheck": {"Test": ["CMD"]}}, "health check"),
        ({**NGINX, "Healthcheck": {"Test": ["WHAT", "x"]}}, "health check"),
        ({**NGINX, "ExposedPorts": {"x/tcp": {}}}, "no port"),
        ({**NGINX, "ExposedPorts": {"0/tcp": {}}}, "workload file"),
        ({**NGINX, "User": "a b"}, "workload file"),
        ({**NGINX, "StopSignal": "SIGNOTHING"}, "no signal"),
        ({**NGINX, "WorkingDir": "/a/../b"}, "plain absolute path"),
        ({**NGINX, "Env": ["A B=1"]}, "bad name"),
        ({**NGINX, "Env": ["A=\0"]}, "zero byte"),
        ({**NGINX, "Cmd": "nginx"}, "its configuration"),
    ],
)
def test_what_cannot_be_a_workload_is_refused(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        taken(config)


def test_packages_and_an_image_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="'packages' and a container image"):
        taken(NGINX, {"packages": ["nginx"]})


@pytest.mark.parametrize("configuration", [b"", b"[]", b'{"os": "linux", "architecture": "arm64"}'])
def test_what_is_no_image_for_a_guest_is_refused(configuration: bytes) -> None:
    with pytest.raises(UsageError, match="container image"):
        workload_table(configuration, {}, "web", locate)


def test_what_is_written_as_toml_is_what_is_read() -> None:
    texts = ["", '"', "\\", "\x7f", "\x01\t\n", "é", "\U0001f600", "#", "'''"]
    table = {"a.b c": texts, "t": {"x": True, "y": 1, "z": 1.5, "": {}}, "e": [], "n": -3}
    assert tomllib.loads(toml.render(table).decode()) == table
