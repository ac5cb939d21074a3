"""The stream of a capture: what goes in comes out, and nothing else is accepted."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sevfork.agent.container.archive import REMOVED, Packer
from sevfork.agent.container.holes import Range
from sevfork.agent.container.tree import walk
from sevfork.agent.container.unpacker import Unpacker
from sevfork.errors import NotAuthentic, RefusedByGuest
from tests.support.stored import stored_bytes

NAME = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=60)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.fixture
def target(tmp_path: Path) -> Unpacker:
    (tmp_path / "images").mkdir()
    (tmp_path / "files").mkdir()
    return Unpacker(tmp_path / "images", tmp_path / "files")


def packed(source: Path) -> Packer:
    packer = Packer(io.BytesIO())
    for node in walk(source):
        packer.add_node(f"files/{node.path}", node)
    return packer


def stream(packer: Packer, *, ended: bool = True) -> bytes:
    if ended:
        packer.end()
    assert isinstance(packer.sink, io.BytesIO)
    return packer.sink.getvalue()


def describe(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for node in walk(root):
        status = node.status
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = (root / node.path).read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = node.link_target()
        owner = (status.st_uid, status.st_gid)
        found[node.path] = (status.st_mode, owner, status.st_mtime_ns, status.st_rdev, content)
    return found


def test_every_kind_of_node_comes_out_as_it_went_in(source: Path, target: Unpacker) -> None:
    (source / "directory").mkdir(mode=0o710)
    (source / "directory" / "file").write_bytes(b"content" * 1000)
    (source / "directory" / "file").chmod(0o4751)
    (source / "empty").touch()
    (source / "link").symlink_to("/nowhere/at all")
    os.mkfifo(source / "fifo", 0o600)
    os.mknod(source / "deleted", stat.S_IFCHR, 0)  # overlayfs's mark for "no longer there"
    os.utime(source / "empty", ns=(1, 1_234_567_890_123_456_789))
    target.read(io.BytesIO(stream(packed(source))))
    assert describe(target.files) == describe(source)


def test_hard_links_stay_links(source: Path, target: Unpacker) -> None:
    (source / "a").write_text("x")
    (source / "b").hardlink_to(source / "a")
    target.read(io.BytesIO(stream(packed(source))))
    assert (target.files / "a").stat().st_ino == (target.files / "b").stat().st_ino


def test_extended_attributes_of_any_bytes_are_kept(source: Path, target: Unpacker) -> None:
    (source / "file").touch()
    try:
        os.setxattr(source / "file", "user.sevfork", bytes(range(256)))
    except OSError:
        pytest.skip("no extended attributes here")
    target.read(io.BytesIO(stream(packed(source))))
    assert os.getxattr(target.files / "file", "user.sevfork") == bytes(range(256))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(names=st.lists(NAME.filter(lambda name: name not in (".", "..")), max_size=3, unique=True))
def test_any_name_is_kept(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    place = tmp_path_factory.mktemp("names")
    for name in ("source", "images", "files"):
        (place / name).mkdir()
    for name in names:
        if len(os.fsencode(name)) < 250:
            (place / "source" / name).write_text(name)
    Unpacker(place / "images", place / "files").read(io.BytesIO(stream(packed(place / "source"))))
    assert describe(place / "files") == describe(place / "source")


def test_a_name_that_is_not_text_is_kept(source: Path, target: Unpacker) -> None:
    (source / os.fsdecode(b"\xff\xfe name")).write_text("x")
    target.read(io.BytesIO(stream(packed(source))))
    assert os.listdir(os.fsencode(target.files)) == [b"\xff\xfe name"]  # noqa: PTH208  # bytes


def test_a_file_that_shrinks_while_it_is_copied_keeps_the_stream_whole(
    source: Path, target: Unpacker
) -> None:
    class Shrinking(io.BytesIO):
        def write(self, data: bytes, /) -> int:  # type: ignore[override]  # bytes are enough
            if b"files/file" in data:
                os.truncate(source / "file", 700_000)
            return super().write(data)

    (source / "file").write_bytes(b"x" * 3_000_000)
    (source / "next").write_text("unharmed")
    packer = Packer(Shrinking())
    for node in walk(source):
        packer.add_node(f"files/{node.path}", node)
    target.read(io.BytesIO(stream(packer)))
    assert (target.files / "file").stat().st_size == 3_000_000
    assert (target.files / "next").read_text() == "unharmed"


def test_a_file_that_grows_while_it_is_copied_keeps_the_stream_whole(
    source: Path, target: Unpacker
) -> None:
    class Growing(io.BytesIO):
        def write(self, data: bytes, /) -> int:  # type: ignore[override]  # bytes are enough
            if b"files/file" in data:
                with (source / "file").open("ab") as file:
                    file.write(b"more")
            return super().write(data)

    (source / "file").write_bytes(b"x" * 10)
    packer = Packer(Growing())
    for node in walk(source):
        packer.add_node(f"files/{node.path}", node)
    target.read(io.BytesIO(stream(packer)))
    assert (target.files / "file").read_bytes() == b"x" * 10


def test_sockets_are_left_out(
    source: Path, target: Unpacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mknod(source / "socket", stat.S_IFSOCK | 0o600)
    (source / "file").touch()
    target.read(io.BytesIO(stream(packed(source))))
    assert [path.name for path in target.files.iterdir()] == ["file"]


def test_pages_that_have_gone_out_are_given_back(tmp_path: Path, target: Unpacker) -> None:
    pages = tmp_path / "pages-1.img"
    content = os.urandom(2_500_000)
    pages.write_bytes(content)
    packer = Packer(io.BytesIO())
    packer.move_in("images/0/pages-1.img", pages)
    assert pages.stat().st_size == len(content)
    assert stored_bytes(pages) <= 4096
    target.read(io.BytesIO(stream(packer)))
    assert (target.images / "0" / "pages-1.img").read_bytes() == content


def test_an_image_directory_names_its_parent(target: Unpacker) -> None:
    packer = Packer(io.BytesIO())
    packer.add_symbolic_link("images/last/parent", "../0")
    target.read(io.BytesIO(stream(packer)))
    assert (target.images / "last" / "parent").readlink() == Path("../0")


def test_members_that_were_put_aside_come_later_and_win(
    source: Path, target: Unpacker, tmp_path: Path
) -> None:
    (source / "file").write_text("before")
    (source / "gone" / "deep").mkdir(parents=True)
    (source / "becomes-a-link").mkdir()
    packer = packed(source)
    (source / "file").write_text("after")
    (source / "becomes-a-link").rmdir()
    (source / "becomes-a-link").symlink_to("/etc")
    spool = tmp_path / "spool"
    with spool.open("wb") as aside:
        second = Packer(aside)
        second.add_content(REMOVED, b"gone/deep\0gone\0")
        for node in walk(source):
            if not node.path.startswith("gone"):
                second.add_node(f"files/{node.path}", node)
    packer.append(spool)
    target.read(io.BytesIO(stream(packer)))
    assert (target.files / "file").read_text() == "after"
    assert not (target.files / "gone").exists()
    assert (target.files / "becomes-a-link").readlink() == Path("/etc")


def test_a_stream_without_its_end_is_refused(source: Path, target: Unpacker) -> None:
    (source / "file").write_text("x")
    with pytest.raises(NotAuthentic, match="ends too early"):
        target.read(io.BytesIO(stream(packed(source), ended=False) + bytes(1024)))


@pytest.mark.parametrize("kept", [0, 1, 512, 700, 1024, 2000])
def test_a_stream_that_is_cut_is_refused(source: Path, target: Unpacker, kept: int) -> None:
    (source / "file").write_text("x" * 600)
    with pytest.raises(NotAuthentic):
        target.read(io.BytesIO(stream(packed(source))[:kept]))


def test_a_stream_that_goes_on_after_its_end_is_refused(source: Path, target: Unpacker) -> None:
    whole = stream(packed(source))
    with pytest.raises(NotAuthentic, match="goes on"):
        target.read(io.BytesIO(whole.ljust(3 << 20, b"\0") + b"more"))


def test_the_source_is_read_to_its_end(source: Path, target: Unpacker) -> None:
    whole = io.BytesIO(stream(packed(source)) + bytes(5 << 20))
    target.read(whole)
    assert whole.read() == b""


def test_an_error_of_the_source_at_its_very_end_is_raised(source: Path, target: Unpacker) -> None:
    class Forged(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            if not data:
                raise NotAuthentic("the last chunk does not verify")
            return data

    with pytest.raises(NotAuthentic, match="last chunk"):
        target.read(Forged(stream(packed(source))))


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.uid, info.gid, info.mode = os.getuid(), os.getgid(), 0o600
    return info.tobuf(tarfile.PAX_FORMAT)


@pytest.mark.parametrize("name", ["other", "files/../escaped", "files/a/../../b", "files//b"])
def test_a_member_that_would_land_elsewhere_is_refused(target: Unpacker, name: str) -> None:
    with pytest.raises((NotAuthentic, RefusedByGuest)):
        target.read(io.BytesIO(member(name) + member("end") + bytes(1024)))


def test_a_member_below_a_link_is_refused(target: Unpacker, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    link = member("files/link", tarfile.SYMTYPE, str(tmp_path / "outside"))
    with pytest.raises(RefusedByGuest):
        target.read(io.BytesIO(link + member("files/link/file") + member("end") + bytes(1024)))
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("name", [b"user.a=b", b"user.\xff\xfe", b"user.\xc3\xa9", b"user.\n"])
@pytest.mark.parametrize("value", [b"", b"\xff=\n"])
def test_extended_attributes_of_any_name_are_kept(
    source: Path, target: Unpacker, name: bytes, value: bytes
) -> None:
    (source / "file").touch()
    try:
        os.setxattr(source / "file", name, value)
    except OSError:
        pytest.skip("no extended attributes here")
    target.read(io.BytesIO(stream(packed(source))))
    assert os.getxattr(target.files / "file", name) == value


def test_a_link_does_not_lead_to_a_name_that_went_away_before_it_was_written(
    source: Path, target: Unpacker
) -> None:
    (source / "a").write_text("x")
    (source / "b").hardlink_to(source / "a")
    (source / "c").hardlink_to(source / "a")
    packer = Packer(io.BytesIO())
    for node in walk(source):
        if node.name == "a":
            (source / "a").unlink()
            with pytest.raises(FileNotFoundError):
                packer.add_node(f"files/{node.path}", node)
        else:
            packer.add_node(f"files/{node.path}", node)
    target.read(io.BytesIO(stream(packer)))
    assert (target.files / "b").read_text() == "x"
    assert (target.files / "b").stat().st_ino == (target.files / "c").stat().st_ino


def sparse_member(stored: bytes, size: str, data: str) -> bytes:
    info = tarfile.TarInfo("files/sparse")
    info.uid, info.gid, info.size = os.getuid(), os.getgid(), len(stored)
    info.pax_headers = {"SEVFORK.size": size, "SEVFORK.data": data}
    padded = stored.ljust(-(-len(stored) // 512) * 512, b"\0")
    return info.tobuf(tarfile.PAX_FORMAT) + padded


def test_holes_are_neither_stored_nor_filled(source: Path, target: Unpacker) -> None:
    with (source / "sparse").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"x" * 4096)
    packer = packed(source)
    assert packer.size_bytes <= 1 << 20
    target.read(io.BytesIO(stream(packer)))
    made = (target.files / "sparse").stat()
    assert made.st_size == 1 << 40
    assert made.st_blocks * 512 <= 1 << 20
    with (target.files / "sparse").open("rb") as file:
        file.seek((1 << 39) - 1)
        assert file.read(4098) == b"\0" + b"x" * 4096 + b"\0"


def test_a_file_of_nothing_but_a_hole_is_kept(source: Path, target: Unpacker) -> None:
    (source / "hole").touch()
    os.truncate(source / "hole", 5000)
    target.read(io.BytesIO(stream(packed(source))))
    assert (target.files / "hole").read_bytes() == bytes(5000)


@pytest.mark.parametrize(
    ("size", "data"),
    [
        ("10", "0,11"),  # more than the file has
        ("100", "0,5 6,6"),  # more than the member holds
        ("100", "0,5"),  # less
        ("100", "0,6 5,4"),  # twice
        ("100", "50,5 10,5"),  # not in order
        ("100", "-5,10"),
        ("100", "0,10 20,0"),
        (str(2**63), "0,10"),
        ("many", "0,10"),
        ("100", "0;10"),
        ("100", "0,5,5"),
    ],
)
def test_a_file_whose_sizes_lie_is_refused(target: Unpacker, size: str, data: str) -> None:
    lying = sparse_member(b"0123456789", size, data)
    with pytest.raises(NotAuthentic):
        target.read(io.BytesIO(lying + member("end") + bytes(1024)))


def test_a_member_without_its_records_is_refused(target: Unpacker) -> None:
    directory = member("files/directory", tarfile.DIRTYPE)
    with pytest.raises(NotAuthentic):
        target.read(io.BytesIO(directory + member("end") + bytes(1024)))


def test_a_growing_file_goes_out_in_parts_and_is_given_back(
    tmp_path: Path, target: Unpacker
) -> None:
    pages, content, mib = tmp_path / "pages-1.img", os.urandom(3 << 20), 1 << 20
    packer = Packer(io.BytesIO())
    with pages.open("wb") as file:
        for start in range(0, 3 * mib, mib):
            file.write(content[start : start + mib])
            file.flush()
            packer.move_part("images/0/pages-1.img", pages, Range(start, mib))
    assert stored_bytes(pages) == 0
    target.read(io.BytesIO(stream(packer)))
    assert (target.images / "0" / "pages-1.img").read_bytes() == content


@pytest.mark.parametrize("second", [5, 20])
def test_a_part_that_does_not_follow_is_refused(target: Unpacker, second: int) -> None:
    def part(start: int) -> bytes:
        info = tarfile.TarInfo("images/0/pages-1.img")
        info.size, info.pax_headers = 10, {"SEVFORK.offset": str(start)}
        info.uid, info.gid = os.getuid(), os.getgid()
        return info.tobuf(tarfile.PAX_FORMAT) + bytes(512)

    with pytest.raises(NotAuthentic, match="does not follow"):
        target.read(io.BytesIO(part(0) + part(second) + bytes(1024)))
