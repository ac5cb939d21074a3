"""Whatever is written into a tree stays in it, through links of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from sevfork.errors import UsageError
from sevfork.image.guest_root import GuestRoot
from sevfork.image.install import prune, settle


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory beside the tree that must stay as it is: it holds one file."""
    (tmp_path / "host").mkdir()
    (tmp_path / "host/precious").write_text("of the host")
    return tmp_path / "host"


@pytest.fixture
def root(tmp_path: Path, host: Path) -> GuestRoot:
    """Links as packages bring them: absolute, relative, climbing out, to a link, to nothing."""
    tree = tmp_path / "root"
    tree.mkdir()
    links = {
        "absolute": str(host),
        "climbing": "../host",
        "climbing-far": "../../../../../../../.." + str(host),
        "to-a-link": "absolute",
        "to-a-file": str(host / "precious"),
    }
    for name, target in links.items():
        (tree / name).symlink_to(target)
    return GuestRoot(tree)


LINKS = ("absolute", "climbing", "climbing-far", "to-a-link")


@pytest.fixture(autouse=True)
def _nothing_reaches_the_host(host: Path) -> object:
    yield
    assert [path.name for path in host.iterdir()] == ["precious"]
    assert (host / "precious").read_text() == "of the host"
    assert host.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("link", LINKS)
def test_a_file_written_through_a_link_lands_in_the_tree(
    root: GuestRoot, host: Path, link: str
) -> None:
    root.write(f"{link}/new", b"x", 0o755)
    assert root.real(f"{link}/new").read_bytes() == b"x"
    assert root.resolve(f"{link}/new") in (f"{host}/new".lstrip("/"), "host/new")


@pytest.mark.parametrize("link", LINKS)
def test_a_directory_made_through_a_link_lands_in_the_tree(root: GuestRoot, link: str) -> None:
    root.make_directory(f"{link}/deep/er")
    assert root.real(f"{link}/deep/er").is_dir()
    assert root.real(f"{link}/deep/er").is_relative_to(root.directory)


@pytest.mark.parametrize("link", [*LINKS, "to-a-file"])
def test_a_link_is_replaced_and_not_written_through(root: GuestRoot, link: str) -> None:
    root.write(link, b"x")
    assert not (root.directory / link).is_symlink()
    assert (root.directory / link).read_bytes() == b"x"


@pytest.mark.parametrize("link", [*LINKS, "to-a-file"])
def test_removing_a_link_leaves_alone_what_it_leads_to(root: GuestRoot, link: str) -> None:
    root.remove(link)
    assert not (root.directory / link).is_symlink()


@pytest.mark.parametrize("link", LINKS)
def test_what_the_host_has_does_not_exist_in_the_tree(root: GuestRoot, link: str) -> None:
    assert (root.directory / link / "precious").exists() or link == "climbing-far"
    assert not root.exists(f"{link}/precious")


def test_pruning_removes_nothing_that_lies_behind_a_link(root: GuestRoot) -> None:
    (root.directory / "usr").mkdir()
    (root.directory / "usr/prec").write_text("")
    prune(root, ["absolute/prec*", "*/precious", "usr/prec*", "climbing/*"])
    assert not (root.directory / "usr/prec").exists()
    assert (root.directory / "absolute").is_symlink()


def test_the_fixed_names_of_a_root_are_written_in_the_tree(root: GuestRoot, host: Path) -> None:
    (root.directory / "etc").mkdir()
    (root.directory / "dev/shm").mkdir(parents=True)
    for name in ("machine-id", "hostname", "hosts", "resolv.conf"):
        (root.directory / "etc" / name).symlink_to(host / "precious")
    (root.directory / "var").symlink_to(host)
    settle(root)
    assert (root.directory / "etc/hostname").read_text() == "sevfork\n"
    assert root.real("var/tmp").is_relative_to(root.directory)


def test_no_mode_of_the_build_hosts_files_gets_into_the_image(root: GuestRoot) -> None:
    """mmdebstrap copies the host's ``/etc/hostname``, mode and all."""
    (root.directory / "etc").mkdir()
    (root.directory / "dev/shm").mkdir(parents=True)
    (root.directory / "etc/hostname").write_text("of the host\n")
    (root.directory / "etc/hostname").chmod(0o755)
    settle(root)
    assert (root.directory / "etc/hostname").stat().st_mode & 0o777 == 0o644


def test_links_that_go_round_are_refused(root: GuestRoot) -> None:
    (root.directory / "round").symlink_to("round")
    with pytest.raises(UsageError, match="links"):
        root.write("round/file", b"")
    assert not root.exists("round")


def test_a_file_in_the_way_of_a_directory_is_named(root: GuestRoot) -> None:
    (root.directory / "file").write_text("")
    with pytest.raises(UsageError, match="'file'"):
        root.make_directory("file/deep")
