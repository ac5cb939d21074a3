"""The workload file is read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

from sevfork.agent.workload import Hook, Ready, Workload
from sevfork.errors import UsageError
from sevfork.technology import Technology
from tests.support import REPOSITORY

SHIPPED = sorted(REPOSITORY.glob("firmware/workloads/*.toml"))
OF_TESTS = sorted(REPOSITORY.glob("tests/vm/workloads/*.toml"))

GOOD = """
name = "web"
packages = ["redis-server"]
command = ["/usr/bin/server", "--port", "80"]
user = "www-data"
writable = ["/var/lib/web"]
ports = [80]
environment = { MODE = "fast" }
ready_timeout_s = 5
ready = { tcp = 80 }
files = { "/opt/web/app.py" = "app.py" }
[[after_fork]]
command = ["/bin/true"]
"""


@pytest.mark.parametrize("path", [*SHIPPED, *OF_TESTS], ids=lambda path: path.stem)
def test_every_workload_file_of_the_repository_is_valid(path: Path) -> None:
    workload = Workload.load(path.read_bytes())
    assert workload.name == path.stem
    for source in workload.files.values():
        assert (path.parent / source).is_file()


def test_python_demos_and_tests_share_one_set_of_packages() -> None:
    """Else each of them would install its own root file system."""
    # What they test is Debian's own package.
    services = {"redis", "nginx", "nginx-tls", "node", "mariadb"}
    paths = [path for path in (*OF_TESTS, *SHIPPED) if path.stem not in services]
    assert {Workload.load(path.read_bytes()).packages for path in paths} == {("gunicorn",)}


def test_all_fields_are_read() -> None:
    workload = Workload.load(GOOD.encode())
    assert workload.command == ("/usr/bin/server", "--port", "80")
    assert workload.ready == Ready(tcp=80)
    assert workload.after_fork == (Hook(("/bin/true",), timeout_s=30),)
    assert workload.files == {"/opt/web/app.py": "app.py"}
    assert workload.environment == {"MODE": "fast"}
    assert workload.ready_timeout_s == 5
    assert workload.working_directory == "/"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('name = "web"', ""),
        ('name = "web"', 'name = "Web/.."'),
        ('name = "web"', 'name = "web"\ncolour = "red"'),
        ('"/usr/bin/server", "--port"', '"server", "--port"'),
        ('"/usr/bin/server", "--port"', '"/usr/bin/../server", "--port"'),
        ('"/usr/bin/server", "--port"', '"/usr/bin/server", 3'),
        ('command = ["/usr/bin/server", "--port", "80"]', "command = []"),
        ("{ tcp = 80 }", "{}"),
        ("{ tcp = 80 }", "{ tcp = 0 }"),
        ("{ tcp = 80 }", '{ tcp = "80" }'),
        ("{ tcp = 80 }", '{ tcp = 80, command = ["/bin/true"] }'),
        ("{ tcp = 80 }", "{ udp = 80 }"),
        ("ports = [80]", "ports = [65536]"),
        ("ready_timeout_s = 5", 'stop_signal = "TERM"'),
        ("ready_timeout_s = 5", 'stop_signal = "SIGNONE"'),
        ("ready_timeout_s = 5", "stop_signal = 15"),
        ("ready_timeout_s = 5", 'logs = "all"'),
        ("ready_timeout_s = 5", "logs = true"),
        ("ready_timeout_s = 5", "ready_timeout_s = 0"),
        ("ready_timeout_s = 5", "ready_timeout_s = 86400"),
        ('["/var/lib/web"]', '["var/lib/web"]'),
        ('["/var/lib/web"]', '["/var/lib/web/"]'),
        ('["/var/lib/web"]', '["//var"]'),
        ('["redis-server"]', '["redis-server=1"]'),
        ('["redis-server"]', '["-o=Dpkg::Pre-Invoke"]'),
        ('"www-data"', '"www data"'),
        ('{ MODE = "fast" }', '{ "A=B" = "x" }'),
        ('{ MODE = "fast" }', '{ A = "x\\u0000" }'),
        ('= "app.py"', '= "../app.py"'),
        ('= "app.py"', '= "/etc/shadow"'),
        ('"/opt/web/app.py"', '"/etc/sevfork/policy.toml"'),
        ('"/opt/web/app.py"', '"/usr/lib/sevfork/init"'),
        ('"/opt/web/app.py"', '"/run/app.py"'),
        ('command = ["/bin/true"]', 'command = ["true"]'),
        ('command = ["/bin/true"]', 'command = ["/bin/true"]\ntimeout_s = -1'),
    ],
)
def test_what_is_not_exactly_right_is_rejected(old: str, new: str) -> None:
    assert old in GOOD
    with pytest.raises(UsageError, match="workload file"):
        Workload.load(GOOD.replace(old, new).encode())


@pytest.mark.parametrize(
    ("line", "technology", "logs"),
    [
        ("", Technology.SIMULATED, "host"),
        ("", Technology.SEV_SNP, "none"),
        ("", Technology.TDX, "none"),
        ('logs = "guest"', Technology.SIMULATED, "guest"),
        ('logs = "host"', Technology.TDX, "host"),
        ('logs = "none"', Technology.SIMULATED, "none"),
    ],
)
def test_who_may_read_what_is_printed(line: str, technology: Technology, logs: str) -> None:
    workload = Workload.load(f"{line}\n{GOOD}".encode()).resolved(technology)
    assert workload.logs == logs


@pytest.mark.parametrize("data", [b"\xff", b"name = ", b"", b"[name]\n"])
def test_what_is_not_toml_of_a_workload_is_rejected(data: bytes) -> None:
    with pytest.raises(UsageError, match="workload file"):
        Workload.load(data)
