"""What goes into a root file system, and what must never be there."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import sevfork
from sevfork.agent.workload import Workload
from sevfork.errors import UsageError
from sevfork.image import contents
from sevfork.image.base import PYTHON_DIRECTORY
from sevfork.technology import Technology

SOURCE = Path(sevfork.__file__).parent
WORKLOAD = """
name = "web"
command = ["/usr/bin/server"]
ready = { tcp = 80 }
user = "web"
writable = ["/var/lib/web"]
files = { "/opt/app.py" = "app.py", "/opt/run" = "run" }
"""


def modules(technology: Technology) -> dict[str, bytes]:
    """Module name to source of the agent's part of the package."""
    prefix = f"{PYTHON_DIRECTORY}/"
    return {
        name.removeprefix(prefix)
        .removesuffix(".py")
        .removesuffix("/__init__")
        .replace("/", "."): f.data
        for name, f in contents.agent_files(SOURCE, technology).items()
    }


def imports(source: bytes) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_the_agent_imports_only_what_is_in_the_image() -> None:
    shipped = modules(Technology.SIMULATED)
    allowed = {"cryptography", "msgspec", *sys.stdlib_module_names}
    for name, source in shipped.items():
        for imported in imports(source):
            own = imported.split(".")[0] == "sevfork"
            assert imported in shipped if own else imported.split(".")[0] in allowed, (
                f"{name} imports {imported}"
            )


@pytest.mark.parametrize("technology", Technology)
def test_nothing_of_the_host_is_in_a_guest(technology: Technology) -> None:
    for name in modules(technology):
        assert not name.startswith(("sevfork.host", "sevfork.cli", "sevfork.guest"))
        assert name not in ("sevfork.simulated.processor", "sevfork.verifier.kds")


def test_the_simulated_provider_is_in_simulated_images_only() -> None:
    provider = "sevfork.agent.evidence.simulated"
    assert provider in modules(Technology.SIMULATED)
    assert provider not in modules(Technology.SEV_SNP)
    assert provider not in modules(Technology.TDX)


@pytest.mark.parametrize("technology", Technology)
def test_the_image_says_what_it_was_built_for(technology: Technology) -> None:
    namespace: dict[str, str] = {}
    exec(modules(technology)["sevfork.agent.image_technology"], namespace)  # noqa: S102
    assert namespace["TECHNOLOGY"] == technology.value


def test_workload_files_keep_being_executable_or_not(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_bytes(b"1")
    (tmp_path / "run").write_bytes(b"2")
    (tmp_path / "run").chmod(0o755)
    files = contents.workload_files(Workload.load(WORKLOAD.encode()), b"toml", tmp_path)
    assert files["opt/app.py"] == contents.File(b"1", 0o644)
    assert files["opt/run"] == contents.File(b"2", 0o755)
    assert files["etc/sevfork/workload.toml"].data == b"toml"


def test_a_missing_workload_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"app\.py"):
        contents.workload_files(Workload.load(WORKLOAD.encode()), b"", tmp_path)


def test_files_replace_what_the_packages_brought(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/link").symlink_to("/outside")
    contents.write(tmp_path, {"etc/link": contents.File(b"new", 0o600)})
    assert (tmp_path / "etc/link").read_bytes() == b"new"
    assert not (tmp_path / "etc/link").is_symlink()
    assert (tmp_path / "etc/link").stat().st_mode & 0o777 == 0o600


def test_an_unknown_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    with pytest.raises(UsageError, match="no user 'web'"):
        contents.make_writable(tmp_path, Workload.load(WORKLOAD.encode()))


def test_a_program_is_found_through_the_links_of_its_own_tree(tmp_path: Path) -> None:
    workload = Workload.load(WORKLOAD.encode())
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "etc/alternatives").mkdir(parents=True)
    (tmp_path / "opt/bin").mkdir(parents=True)
    with pytest.raises(UsageError, match="'/usr/bin/server' is not in the image"):
        contents.require_programs(tmp_path, workload)
    (tmp_path / "usr/bin/server").symlink_to("/etc/alternatives/server")
    (tmp_path / "etc/alternatives/server").symlink_to("../../opt/bin/real")
    with pytest.raises(UsageError, match="is not in the image"):
        contents.require_programs(tmp_path, workload)
    (tmp_path / "opt/bin/real").write_text("")
    contents.require_programs(tmp_path, workload)


def test_links_that_go_round_are_not_followed_for_ever(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/server").symlink_to("server")
    with pytest.raises(UsageError, match="is not in the image"):
        contents.require_programs(tmp_path, Workload.load(WORKLOAD.encode()))


def test_modules_are_listed_in_load_order() -> None:
    files = contents.module_files({"nfnetlink": b"1", "nf_tables": b"2"})
    assert files["usr/lib/modules/load"].data == b"nfnetlink\nnf_tables\n"
    assert files["usr/lib/modules/nf_tables.ko"].data == b"2"
