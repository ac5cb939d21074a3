"""What goes into a root file system, and what must never be there."""

from __future__ import annotations

import ast
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

import sevfork
from sevfork.agent.workload import Ready, Workload
from sevfork.errors import UsageError
from sevfork.image import contents
from sevfork.image.guest_root import GuestRoot
from sevfork.image.install import PYTHON_DIRECTORY
from sevfork.technology import Technology
from tests.support import REPOSITORY

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


def contracts() -> dict[str, dict[str, Any]]:
    """import-linter's, by type; of those that forbid, the one on what is measured."""
    text = (REPOSITORY / "pyproject.toml").read_text()
    listed = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    return {
        "layers": next(each for each in listed if each["type"] == "layers"),
        "measured": next(each for each in listed if each["name"].startswith("what is measured")),
    }


def test_what_is_measured_is_what_the_contracts_keep_apart_from_the_host() -> None:
    """One rule in two places: what goes into an image, and what imports nothing of the host's."""
    at_the_root = {path.stem for path in SOURCE.glob("*.py")} - {"__init__"}
    measured = {f"sevfork.{name}" for name in at_the_root | set(contents.MEASURED_ROOMS)}
    assert set(contracts()["measured"]["source_modules"]) == measured
    layers = contracts()["layers"]["layers"]
    lower = layers[layers.index("agent") :]
    assert {f"sevfork.{name}" for layer in lower for name in layer.split(" | ")} == measured


@pytest.mark.parametrize("technology", Technology)
def test_nothing_else_is_in_a_guest(technology: Technology) -> None:
    rooms = {"" if name.count(".") < 2 else name.split(".")[1] for name in modules(technology)}
    whole = {name for name in modules(technology) if name.count(".") == 1}
    assert rooms - {""} == set(contents.MEASURED_ROOMS)
    hosts = {path.name for path in SOURCE.iterdir() if path.is_dir()} - set(contents.MEASURED_ROOMS)
    assert not whole & {f"sevfork.{name}" for name in hosts}


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
    files = contents.workload_files(Workload.load(WORKLOAD.encode()), tmp_path)
    assert files["opt/app.py"] == contents.File(b"1", 0o644)
    assert files["opt/run"] == contents.File(b"2", 0o755)


def test_a_missing_workload_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"app\.py"):
        contents.workload_files(Workload.load(WORKLOAD.encode()), tmp_path)


def test_files_replace_what_the_packages_brought(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/link").symlink_to("/outside")
    contents.write(GuestRoot(tmp_path), {"etc/link": contents.File(b"new", 0o600)})
    assert (tmp_path / "etc/link").read_bytes() == b"new"
    assert not (tmp_path / "etc/link").is_symlink()
    assert (tmp_path / "etc/link").stat().st_mode & 0o777 == 0o600


def test_a_directory_of_the_image_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "etc/ssl").mkdir(parents=True)
    with pytest.raises(UsageError, match="'/etc/ssl' is a directory"):
        contents.write(GuestRoot(tmp_path), {"etc/ssl": contents.File(b"")})
    assert (tmp_path / "etc/ssl").is_dir()


def with_paths(**paths: object) -> Workload:
    ready = Ready(tcp=80)
    return msgspec.structs.replace(Workload(name="web", command=("/x",), ready=ready), **paths)


@pytest.fixture
def root(tmp_path: Path) -> GuestRoot:
    """A tree with the links that Debian has, and one that a package brought."""
    for name in ("etc/sevfork", "run", "usr/lib/sevfork", "usr/lib/modules", "var", "srv"):
        (tmp_path / "root" / name).mkdir(parents=True)
    links = {"var/run": "/run", "lib": "usr/lib", "srv/of-a-package": "../lib/../lib/sevfork"}
    for name, target in links.items():
        (tmp_path / "root" / name).symlink_to(target)
    (tmp_path / "root/etc/passwd").write_text(f"root:x:{os.getuid()}:{os.getgid()}::/:/bin/sh\n")
    return GuestRoot(tmp_path / "root")


@pytest.mark.parametrize(
    "target",
    ["/lib/sevfork/init", "/srv/of-a-package/init", "/lib/modules/load", "/var/run/hidden"],
)
def test_reserved_places_are_compared_after_resolving(root: GuestRoot, target: str) -> None:
    with pytest.raises(UsageError, match="which is not the workload's"):
        contents.require_own_places(root, with_paths(files={target: "x"}))


@pytest.mark.parametrize("directory", ["/lib/sevfork", "/srv/of-a-package/python", "/etc/sevfork"])
def test_a_reserved_directory_is_not_given_to_the_workload(root: GuestRoot, directory: str) -> None:
    with pytest.raises(UsageError, match="which is not the workload's"):
        contents.require_own_places(root, with_paths(writable=(directory,)))


def test_a_link_in_a_reserved_places_way_that_is_replaced_is_the_workloads(root: GuestRoot) -> None:
    """Written there, a file takes the place of the link and leaves alone what it led to."""
    contents.require_own_places(root, with_paths(files={"/srv/of-a-package": "x"}))


def test_a_writable_directory_is_made_where_the_guest_will_look(root: GuestRoot) -> None:
    workload = with_paths(writable=("/var/run/redis", "/var/lib/deep/er"))
    contents.require_own_places(root, workload)
    contents.make_writable(root, workload)
    assert (root.directory / "run/redis").is_dir()
    assert (root.directory / "var/lib/deep/er").is_dir()
    assert not Path("/run/redis").exists()


def test_an_unknown_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    with pytest.raises(UsageError, match="no user 'web'"):
        contents.make_writable(GuestRoot(tmp_path), Workload.load(WORKLOAD.encode()))


def test_a_program_is_found_through_the_links_of_its_own_tree(tmp_path: Path) -> None:
    workload = Workload.load(WORKLOAD.encode())
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "etc/alternatives").mkdir(parents=True)
    (tmp_path / "opt/bin").mkdir(parents=True)
    with pytest.raises(UsageError, match="'/usr/bin/server' is not in the image"):
        contents.require_programs(GuestRoot(tmp_path), workload)
    (tmp_path / "usr/bin/server").symlink_to("/etc/alternatives/server")
    (tmp_path / "etc/alternatives/server").symlink_to("../../opt/bin/real")
    with pytest.raises(UsageError, match="is not in the image"):
        contents.require_programs(GuestRoot(tmp_path), workload)
    (tmp_path / "opt/bin/real").write_text("")
    contents.require_programs(GuestRoot(tmp_path), workload)


def test_links_that_go_round_are_not_followed_for_ever(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/server").symlink_to("server")
    with pytest.raises(UsageError, match="is not in the image"):
        contents.require_programs(GuestRoot(tmp_path), Workload.load(WORKLOAD.encode()))


def test_modules_are_listed_in_load_order() -> None:
    files = contents.module_files({"nfnetlink": b"1", "nf_tables": b"2"})
    assert files["usr/lib/modules/load"].data == b"nfnetlink\nnf_tables\n"
    assert files["usr/lib/modules/nf_tables.ko"].data == b"2"
