"""The first file system: its archive format, its modules, its content."""

from __future__ import annotations

import re
import stat

import pytest

from sevfork.image import cpio, initramfs
from sevfork.image.modules import dependencies, load_order
from sevfork.image.recipe import DEFAULT_DIRECTORY

SCRIPT = (DEFAULT_DIRECTORY / "initramfs-init").read_text()
INIT = (DEFAULT_DIRECTORY / "init").read_text()


def read_archive(data: bytes) -> list[tuple[str, list[int], bytes]]:
    """An independent reader: name, the 13 numbers of the header, content."""
    found: list[tuple[str, list[int], bytes]] = []
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = data[at + 110 : at + 110 + numbers[11] - 1].decode()
        start = -(-(at + 110 + numbers[11]) // 4) * 4
        if name == "TRAILER!!!":
            return found
        found.append((name, numbers, data[start : start + numbers[6]]))
        at = -(-(start + numbers[6]) // 4) * 4


def test_an_archive_reads_back_as_it_was_put_in() -> None:
    entries = {
        "dev": cpio.directory(),
        "dev/console": cpio.character_device(5, 1),
        "a": cpio.file(b"content", 0o755),
        "b": cpio.symlink("/a"),
    }
    archive = cpio.archive(entries, 1234)
    read = {name: (numbers, data) for name, numbers, data in read_archive(archive)}
    assert list(read) == ["a", "b", "dev", "dev/console"]
    numbers, data = read["a"]
    assert (numbers[1], numbers[5], data) == (stat.S_IFREG | 0o755, 1234, b"content")
    assert numbers[2:4] == [0, 0], "everything is root's"
    assert read["b"][1] == b"/a"
    assert read["dev/console"][0][9:11] == [5, 1]
    assert len(archive) % 512 == 0


def test_an_archive_does_not_depend_on_the_order_of_its_entries() -> None:
    entries = {"b": cpio.file(b"1"), "a": cpio.file(b"2"), "c": cpio.directory()}
    again = dict(reversed(entries.items()))
    assert cpio.archive(entries, 7) == cpio.archive(again, 7)


def test_modules_load_behind_what_they_need() -> None:
    needs = {"verity": ["mod", "bufio"], "bufio": ["mod"], "mod": [], "erofs": ["crc"], "crc": []}
    order = load_order(["verity", "erofs", "mod"], needs.__getitem__)
    assert order == ["mod", "bufio", "verity", "crc", "erofs"]


@pytest.mark.parametrize(
    ("section", "names"),
    [
        (b"\0license=GPL\0depends=dm-mod,dm-bufio\0retpoline=Y\0", ["dm-mod", "dm-bufio"]),
        (b"\0depends=\0name=x\0", []),
        (b"nothing", []),
    ],
)
def test_dependencies_are_read_from_the_module(section: bytes, names: list[str]) -> None:
    assert dependencies(section) == names


def commands(script: str) -> set[str]:
    """The first word of everything that a shell script runs (roughly: enough for this one)."""
    code = re.sub(r"^\s*#.*$", "", script, flags=re.M).replace("\\\n", " ")
    code = re.sub(r'"[^"\n]*"', "x", code)
    parts = re.split(r"[\n;|&]+|\$\(|[()]|\b(?:do|then|else|if|while)\b", code)
    words = [part.split()[0] for part in parts if part.split()]
    return {word for word in words if re.fullmatch(r"[a-z][a-z_]*", word)}


def test_the_script_uses_only_commands_that_are_there() -> None:
    keywords = {"set", "export", "for", "case", "esac", "read", "true", "cd", "exec", "done", "fi"}
    used = commands(SCRIPT.replace("exec switch_root", "switch_root")) - keywords
    assert used == ({*initramfs.APPLETS, "dmsetup"} - {"sh"})


def test_there_is_no_way_to_a_shell() -> None:
    for text in (SCRIPT, INIT):
        assert "getty" not in text
        assert not re.search(r"\bexec\s+(?:/bin/)?(?:ba|da)?sh\b", text)
    assert not {"getty", "login", "telnetd", "httpd", "sulogin", "init"} & set(initramfs.APPLETS)
    assert "set -eu" in SCRIPT, "a failure ends the script, and with it the VM"


def test_the_root_is_verified_and_damage_ends_the_vm() -> None:
    assert "verity 1 " in SCRIPT
    assert "panic_on_corruption" in SCRIPT
    assert SCRIPT.index("dmsetup create") < SCRIPT.index("mount -t erofs")


def test_no_module_can_be_loaded_after_the_last_of_the_list() -> None:
    loads = [found.start() for found in re.finditer(r"\binsmod\b", SCRIPT)]
    assert max(loads) < SCRIPT.index("modules_disabled") < SCRIPT.index("switch_root")


def test_the_archive_holds_programs_modules_and_every_parent_directory() -> None:
    modules = {"virtio_blk": b"1", "erofs": b"2"}
    entries = initramfs.entries({"usr/bin/busybox": b"elf"}, modules, b"#!/bin/sh\n")
    assert entries["modules/load"].data == b"virtio_blk\nerofs\n"
    assert entries["init"].mode == stat.S_IFREG | 0o755
    assert entries["bin/sh"].data == b"/usr/bin/busybox"
    for path in entries:
        parent = path.rpartition("/")[0]
        assert not parent or parent in entries
    assert {"usr", "usr/bin"} <= set(entries)
