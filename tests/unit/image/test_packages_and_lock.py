"""From apt's output to a lock file, and what a mirror that moved on looks like."""

from __future__ import annotations

import pytest

from sevfork.errors import NotAuthentic, UsageError
from sevfork.image.lock import Lock, Locked
from sevfork.image.packages import (
    Package,
    index_entries,
    is_kernel,
    kernel_package,
    local_index,
    simulated_installs,
)

SIMULATED = """\
Inst gcc-14-base (14.2.0-19 Debian:13.2/stable [amd64])
Inst libc6 [2.40-1] (2.41-12+deb13u5 Debian:13.2/stable [amd64]) []
Inst redis-tools (5:8.0.2-3 Debian:13.2/stable [amd64])
Conf gcc-14-base (14.2.0-19 Debian:13.2/stable [amd64])
"""
INDEX = """\
Package: redis-tools
Version: 5:8.0.2-3
Architecture: amd64
Depends: libc6 (>= 2.38),
 libssl3t64
Filename: pool/main/r/redis/redis-tools_8.0.2-3_amd64.deb
Size: 1234
SHA256: {hash}
Description: a key-value store
 Version: not a field

Package: adduser
Version: 3.152
Architecture: all
Filename: pool/main/a/adduser/adduser_3.152_all.deb
Size: 10
SHA256: {hash}
""".format(hash="ab" * 32)


def package(name: str = "criu", version: str = "4.2.1-1", sha256: str = "aa") -> Package:
    return Package(name, version, "amd64", sha256, 1, "")


def test_versions_are_taken_from_what_apt_would_install() -> None:
    assert simulated_installs(SIMULATED) == [
        "gcc-14-base=14.2.0-19",
        "libc6=2.41-12+deb13u5",
        "redis-tools=5:8.0.2-3",
    ]


def test_index_entries_are_sorted_and_named_as_apt_stores_them() -> None:
    adduser, redis = index_entries(INDEX)
    assert adduser.file_name == "adduser_3.152_all.deb"
    assert redis.file_name == "redis-tools_5%3a8.0.2-3_amd64.deb"
    assert (redis.version, redis.size_bytes, redis.sha256) == ("5:8.0.2-3", 1234, "ab" * 32)


@pytest.mark.parametrize("field", ["SHA256", "Version", "Size"])
def test_an_index_entry_without_a_field_is_rejected(field: str) -> None:
    with pytest.raises(NotAuthentic, match=field):
        index_entries(INDEX.replace(f"{field}: ", f"X-{field}: "))


def test_a_local_index_points_at_the_local_files() -> None:
    index = local_index(index_entries(INDEX))
    assert "Filename: ./redis-tools_5%3a8.0.2-3_amd64.deb" in index
    assert "pool/" not in index
    assert index_entries(index)[0].sha256 == "ab" * 32


def test_the_kernel_is_the_image_that_the_meta_package_depends_on() -> None:
    stanza = (
        "Package: linux-image-cloud-amd64\nDepends: linux-image-6.12.9+deb13-cloud-amd64 (= 1)\n"
    )
    assert kernel_package(stanza) == "linux-image-6.12.9+deb13-cloud-amd64"
    assert is_kernel(package("linux-image-6.12.9+deb13-cloud-amd64"))
    assert not is_kernel(package("linux-image-cloud-amd64"))
    with pytest.raises(NotAuthentic):
        kernel_package("Package: linux-image-cloud-amd64\nDepends: kmod\n")


def test_a_lock_survives_being_written_and_read() -> None:
    lock = Lock().updated([package(), package("adduser", "3.152")], 1_700_000_000)
    assert Lock.parse(lock.render()) == lock
    assert lock.render().index("adduser") < lock.render().index("criu")


def test_updating_keeps_what_other_workloads_locked() -> None:
    lock = Lock(1, {"redis": Locked("7", "amd64", "bb"), "criu": Locked("4.1", "amd64", "cc")})
    updated = lock.updated([package()], 2)
    assert updated.packages["redis"] == Locked("7", "amd64", "bb")
    assert updated.packages["criu"].version == "4.2.1-1"


def test_updating_drops_the_kernel_that_was_replaced() -> None:
    lock = Lock().updated([package("linux-image-6.12.1-cloud-amd64"), package()], 1)
    updated = lock.updated([package("linux-image-6.12.2-cloud-amd64")], 2)
    assert list(updated.packages) == ["criu", "linux-image-6.12.2-cloud-amd64"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "criu 1 amd64 aa\n",
        "epoch x\n",
        "epoch 1\nepoch 2\n",
        "epoch 1\ncriu 1 amd64\n",
        "epoch 1\ncriu 1 amd64 aa\ncriu 2 amd64 aa\n",
        "epoch 1\ncriu  1 amd64 aa\n",
    ],
)
def test_a_damaged_lock_is_rejected(text: str) -> None:
    with pytest.raises(UsageError, match="lock file"):
        Lock.parse(text)


def test_what_moved_is_said_by_name() -> None:
    lock = Lock(1, {"criu": Locked("4.2.0-1", "amd64", "aa")})
    assert lock.moved([package(), package("runc", "1.3")]) == (
        "criu: locked 4.2.0-1, taken 4.2.1-1",
        "runc 1.3 is not in the lock file",
    )
    assert lock.updated([package()], 1).moved([package()]) == ()


def test_same_version_with_another_hash_is_never_taken() -> None:
    lock = Lock().updated([package(sha256="aa")], 1)
    with pytest.raises(NotAuthentic, match="another SHA-256"):
        lock.moved([package(sha256="bb")])
