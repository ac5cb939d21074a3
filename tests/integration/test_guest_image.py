"""Guest images as they are built: looked into, compared, damaged, booted.

Building needs root and a Debian mirror (or a warm cache), as `make demo` does.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sevfork.errors import HostCannot, UsageError
from sevfork.image import paths
from sevfork.image.build import Order, build
from sevfork.image.lock import Lock, Locked
from sevfork.image.recipe import DEFAULT_DIRECTORY
from sevfork.process import run
from sevfork.technology import Technology

pytestmark = [
    pytest.mark.machine,
    pytest.mark.skipif(os.geteuid() != 0, reason="building an image needs root"),
    pytest.mark.timeout(1200),
]
REDIS = DEFAULT_DIRECTORY / "workloads/redis.toml"
IMAGE_FILES = ("vmlinuz", "initrd.img", "root.img", "manifest.json")
TICKET_KEYS = Path(__file__).with_name("ticket_keys.py")
Build = Callable[..., Path]


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Order:
    work = tmp_path_factory.mktemp("guest")
    return Order(
        output=work / "image",
        workload=REDIS,
        technology=Technology.SIMULATED,
        fork="anyone",
        firmware=DEFAULT_DIRECTORY,
        cache=paths.cache_directory(os.environ),
        mirror=paths.mirror(os.environ),
        simulator=work / "simulator",
    )


@pytest.fixture(scope="module")
def image(order: Order) -> Path:
    build(order, silent)
    return order.output


def extracted(root: Path, target: Path) -> Path:
    # Its exit code says that device nodes of the host's file system are not the image's.
    run(["fsck.erofs", f"--extract={target}", root], timeout_s=300)
    return target


@pytest.fixture(scope="module")
def root(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extracted(image / "root.img", tmp_path_factory.mktemp("root") / "root")


def manifest(image: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((image / "manifest.json").read_bytes())
    return found


def verity_verify(image: Path) -> int:
    """The exit code of an independent check of the root against the measured command line."""
    cmdline = str(manifest(image)["kernel_cmdline"])
    found = re.search(r"sevfork\.root=(\d+),([0-9a-f]+),([0-9a-f]{64})(?: |$)", cmdline)
    assert found, "no root hash on the command line"
    blocks, salt, root_hash = found.groups()
    file = str(image / "root.img")
    return run(
        ["veritysetup", "verify", "--no-superblock", "--hash=sha256", f"--salt={salt}"]
        + ["--data-block-size=4096", "--hash-block-size=4096", f"--data-blocks={blocks}"]
        + [f"--hash-offset={int(blocks) * 4096}", file, file, root_hash],
        timeout_s=120,
        check=False,
    ).returncode


def test_the_root_matches_the_hash_on_its_command_line(image: Path) -> None:
    assert verity_verify(image) == 0


def test_one_changed_byte_of_the_root_does_not(image: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(image, tmp_path / "image")
    with (copy / "root.img").open("r+b") as file:
        file.seek(50_000_000)
        byte = file.read(1)
        file.seek(50_000_000)
        file.write(bytes([byte[0] ^ 1]))
    assert verity_verify(copy) != 0


def test_a_guest_with_a_damaged_root_ends_by_itself(image: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "root.img"
    data = bytearray((image / "root.img").read_bytes())
    for at in range(0, len(data) // 2, 16384):
        data[at + 1000] ^= 1
    damaged.write_bytes(data)
    console = run(
        ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-M", "q35", "-m", "512"]
        + ["-cpu", "max,-cx16", "-nodefaults", "-display", "none", "-no-reboot"]
        + ["-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.img")]
        + ["-append", str(manifest(image)["kernel_cmdline"]), "-serial", "stdio"]
        + ["-drive", f"file={damaged},if=virtio,format=raw,readonly=on"],
        timeout_s=120,
    ).stdout
    assert "panic" in console
    assert "agent" not in console


def test_an_unchanged_image_is_not_built_again(order: Order, image: Path) -> None:
    before = (image / "root.img").stat().st_mtime_ns
    assert build(order, silent) is False
    assert (image / "root.img").stat().st_mtime_ns == before


def test_the_same_inputs_give_the_same_bytes(order: Order, image: Path, tmp_path: Path) -> None:
    """From the same cached stage; scripts/check-reproducible makes that anew as well."""
    build(dataclasses.replace(order, output=tmp_path / "again"), silent)
    for name in IMAGE_FILES:
        assert (tmp_path / "again" / name).read_bytes() == (image / name).read_bytes(), name


def test_there_is_no_set_uid_program_no_getty_and_no_init_system(root: Path) -> None:
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 1000
    bad = stat.S_ISUID | stat.S_ISGID
    assert [path for path in files if path.stat().st_mode & bad] == []
    names = {path.name for path in files if path.parent.name in ("bin", "sbin", "lib", "systemd")}
    assert not {"agetty", "getty", "login", "su", "sulogin", "systemd", "udevd", "busybox"} & names
    assert "tini" in names


@pytest.fixture(scope="module")
def ticket_keys(root: Path) -> dict[str, str]:
    """What a process in the guest's root says of them: ``ticket_keys.py``."""
    in_root = 'mount -t proc proc "$0/proc"; exec chroot "$0" /usr/bin/python3 -I -'
    done = run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", in_root, str(root)],
        timeout_s=60,
        stdin=TICKET_KEYS.read_bytes(),
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_keys_of_session_tickets_are_drawn_anew_in_each_child(ticket_keys: dict[str, str]) -> None:
    drawn = ("made", "sibling", "other sibling", "child", "grandchild")
    for part in (slice(16, 32), slice(32, 96), slice(96, 160)):  # of the name, and both keys
        assert len({ticket_keys[each][part] for each in drawn}) == len(drawn)
    assert ticket_keys["child again"] == ticket_keys["child"]
    assert ticket_keys["untouched"] != ticket_keys["untouched made"], "it had no connection before"


def test_keys_of_session_tickets_stay_after_fork_2(ticket_keys: dict[str, str]) -> None:
    assert ticket_keys["before"] == ticket_keys["fork(2)"] == ticket_keys["made"]
    assert ticket_keys["fork(2) of child"] == ticket_keys["child"]


def test_keys_of_session_tickets_that_a_program_sets_stay(ticket_keys: dict[str, str]) -> None:
    assert set(ticket_keys["of its own"]) == {"5"}


def test_only_modules_of_the_list_are_there(root: Path) -> None:
    modules = root / "usr/lib/modules"
    listed = (modules / "load").read_text().split()
    assert sorted(path.stem for path in modules.glob("*.ko")) == sorted(listed)
    assert not any(name.startswith(("sev", "tdx", "tsm")) for name in listed)


def test_python_is_compiled_and_not_checked_against_its_sources(root: Path) -> None:
    compiled = list((root / "usr/lib/sevfork/python/sevfork").rglob("*.pyc"))
    sources = list((root / "usr/lib/sevfork/python/sevfork").rglob("*.py"))
    assert len(compiled) == len(sources) > 10
    for path in compiled:
        assert int.from_bytes(path.read_bytes()[4:8], "little") == 1, "flags: hash, unchecked"


@pytest.mark.parametrize("technology", [Technology.SEV_SNP, Technology.TDX])
def test_an_image_for_hardware_has_no_trace_of_the_simulated_processor(
    order: Order, root: Path, technology: Technology, tmp_path: Path
) -> None:
    made = dataclasses.replace(order, technology=technology, output=tmp_path / "image")
    build(made, silent)
    hardware = extracted(made.output / "root.img", tmp_path / "root")
    agent = "usr/lib/sevfork/python/sevfork"
    trace = "SIMULATED_EVIDENCE"  # the kind of frame by which a guest asks the host for evidence
    assert mentions(root / agent, trace), "the search finds it where it is"
    assert mentions(hardware / agent, trace) == []
    assert list((hardware / agent).rglob("simulat*")) == []
    assert (hardware / "usr/lib/modules" / driver(technology)).exists()
    built = (hardware / agent / "agent/image_technology.py").read_text()
    assert f'TECHNOLOGY = "{technology.value}"' in built
    policy = (hardware / "etc/sevfork/policy.toml").read_text()
    assert 'technologies = ["simulated"]' not in policy


def mentions(directory: Path, text: str) -> list[Path]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [path for path in files if text.encode() in path.read_bytes()]


def driver(technology: Technology) -> str:
    return {Technology.SEV_SNP: "sev-guest.ko", Technology.TDX: "tdx-guest.ko"}[technology]


def with_lock(order: Order, firmware: Path, lock: Lock) -> Order:
    shutil.copytree(order.firmware, firmware)
    (firmware / "packages.lock").write_text(lock.render())
    return dataclasses.replace(order, firmware=firmware, output=firmware.parent / "image")


def test_a_locked_build_stops_when_a_version_is_gone(order: Order, tmp_path: Path) -> None:
    lock = Lock.parse((order.firmware / "packages.lock").read_text())
    gone = {**lock.packages, "criu": Locked("4.2-0.1", "amd64", "00" * 32)}
    moved = with_lock(order, tmp_path / "firmware", Lock(lock.epoch_s, gone))
    with pytest.raises(UsageError, match=r"criu: locked 4\.2-0\.1, taken"):
        build(dataclasses.replace(moved, locked=True), silent)
    assert not moved.output.exists()


def test_a_failed_build_leaves_the_old_image_and_nothing_else(
    order: Order, image: Path, tmp_path: Path
) -> None:
    output = shutil.copytree(image, tmp_path / "out/image")
    workload = tmp_path / "bad.toml"
    workload.write_text(REDIS.read_text().replace("/usr/bin/redis-server", "/usr/bin/no-such"))
    with pytest.raises(UsageError, match="no-such"):
        build(dataclasses.replace(order, workload=workload, output=output), silent)
    assert [path.name for path in output.parent.iterdir()] == ["image"]
    assert manifest(output) == manifest(image)


def with_workload(order: Order, place: Path, more: str) -> Order:
    place.mkdir()
    text = REDIS.read_text()
    old = 'writable = ["/var/lib/redis"]\n'
    assert old in text
    (place / "redis.toml").write_text(text.replace(old, more))
    (place / "file").write_text("of the workload")
    return dataclasses.replace(order, workload=place / "redis.toml", output=place / "image")


def test_what_a_package_links_elsewhere_is_made_in_the_image_and_not_on_this_machine(
    order: Order, tmp_path: Path
) -> None:
    """``/var/run`` is an absolute link of Debian's base-files, ``/lib`` a relative one."""
    name = f"sevfork-test-{os.getpid()}"
    writable = f'writable = ["/var/run/{name}", "/var/lib/redis"]\n'
    files = f'files = {{ "/usr/share/{name}" = "file", "/lib/{name}/x" = "file" }}\n'
    made = with_workload(order, tmp_path / "work", writable + files)
    build(made, silent)
    root = extracted(made.output / "root.img", tmp_path / "root")
    assert (root / "run" / name).is_dir()
    assert (root / "usr/lib" / name / "x").read_text() == "of the workload"
    assert not Path("/run", name).exists()
    assert not Path("/usr/lib", name).exists()


def test_a_workload_cannot_replace_the_agent_by_another_of_its_paths(
    order: Order, tmp_path: Path
) -> None:
    made = with_workload(order, tmp_path / "work", 'files = { "/lib/sevfork/init" = "file" }\n')
    with pytest.raises(UsageError, match="'/lib/sevfork/init' is in '/usr/lib/sevfork'"):
        build(made, silent)
    assert not made.output.exists()


def test_an_unreachable_mirror_is_said_so(order: Order, tmp_path: Path) -> None:
    far = dataclasses.replace(
        order,
        mirror="http://127.0.0.1:9/debian",
        cache=tmp_path / "cache",
        output=tmp_path / "image",
    )
    with pytest.raises(HostCannot, match="cannot be had") as caught:
        build(far, silent)
    assert "SEVFORK_DEBIAN_MIRROR" in (caught.value.hint or "")
    assert not far.output.exists()
