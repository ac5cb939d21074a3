"""A CRIU that behaves, and a container whose processes are not there."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import msgspec
import pytest

from sevfork.agent.container.container import Container
from sevfork.agent.criu import rpc
from sevfork.agent.criu.lives import Life
from sevfork.agent.criu.page_maps import PAGE_SIZE, PageMap, PageRun
from sevfork.agent.criu.rpc import CriuRefused, OnNotify, Option, Request, Value, encode
from sevfork.agent.workload import Ready, Workload

_UNSUPPORTED = "sevfork.agent.criu.unsupported"
WORKLOAD = Workload(name="app", command=("/bin/app",), ready=Ready(tcp=80))


class FakeContainer(Container, frozen=True):
    """Its processes are not there, its files are."""

    state_of_life: dict[str, bool] = msgspec.field(default_factory=lambda: {"running": True})
    held: frozenset[str] = frozenset()
    starts: list[int] = msgspec.field(default_factory=lambda: [1])

    @classmethod
    def with_a_file(cls, state: Path) -> Self:
        made = cls(WORKLOAD, state)
        made.upper.mkdir(parents=True)
        made.root.mkdir()
        (made.upper / "file").write_text("before")
        return made

    @property
    def incarnation(self) -> tuple[int, int]:
        return (0, self.starts[-1])

    @property
    def is_running(self) -> bool:
        return self.state_of_life["running"]

    @property
    def pid(self) -> int:
        return 77

    def mapped_inodes(self) -> frozenset[int]:
        return frozenset()

    def processes(self) -> list[str]:
        return []

    def held_objects(self) -> frozenset[str]:
        return self.held

    def thaw(self) -> None:
        """It was never frozen."""


@dataclass
class FakeCriu:
    """``logs`` are those of requests that are to fail, by their number."""

    logs: dict[int, str] = field(default_factory=dict)
    while_frozen: Callable[[], object] = lambda: None
    requests: list[tuple[Request, Mapping[Option, Value]]] = field(default_factory=list)
    rolled_back: bool = False

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In place of CRIU; and what this machine has is not the workload's."""

        @contextmanager
        def running(_: Path) -> Iterator[FakeCriu]:
            yield self

        monkeypatch.setattr(rpc, "running", running)
        for source in ("_of_the_network", "_unix_listeners"):
            monkeypatch.setattr(f"{_UNSUPPORTED}.{source}", lambda: iter(()))
        monkeypatch.setattr(f"{_UNSUPPORTED}.datagrams_wait", lambda: False)

    def hold(self, stopped: bool) -> None:
        pass

    def request(
        self,
        kind: Request,
        options: Mapping[Option, Value],
        *,
        timeout_s: float,
        on_notify: OnNotify | None = None,
    ) -> None:
        self.requests.append((kind, options))
        directory = Path(str(options[Option.IMAGES_DIR]))
        log = self.logs.get(len(self.requests))
        if log is not None:
            (directory / "criu.log").write_text(log)
            raise CriuRefused("criu: failed")
        self._write_images(directory, options.get(Option.PARENT_IMG))
        if kind is Request.DUMP and on_notify is not None:
            self._freeze(on_notify)

    def _write_images(self, directory: Path, parent: Value | None) -> None:
        (directory / "pages-1.img").write_bytes(b"memory" * 1000)
        (directory / "inventory.img").write_bytes(b"inventory")
        stats = encode({1: encode({1: 2000, 2: 3000 * len(self.requests)})})
        (directory / "stats-dump").write_bytes(bytes(12) + stats)
        if parent is not None:
            (directory / "parent").symlink_to(str(parent))

    def _freeze(self, on_notify: OnNotify) -> None:
        on_notify("pre-dump")
        self.while_frozen()
        try:
            on_notify("post-dump")
        except Exception:
            self.rolled_back = True
            raise


def silent(_: str) -> None:
    """Nobody watches."""


def names(stream: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(stream), mode="r:") as archive:
        return archive.getnames()


def left_over(state: Path) -> list[str]:
    """What lies in a container's state directory beside its files."""
    return sorted(path.name for path in state.iterdir() if path.name not in ("layer", "root"))


@dataclass
class MemoryCriu(FakeCriu):
    """One that copies the memory of processes: by number, by page, what is in there.

    ``write`` is what a process does. Pages of an earlier copy are looked for as CRIU does.
    """

    memory: dict[int, dict[int, bytes]] = field(default_factory=dict)
    dirty: dict[int, set[int]] = field(default_factory=dict)

    programs: dict[int, int] = field(default_factory=dict)
    shared_memory: bool = False
    link: str = ""
    busy: bool = False

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().install(monkeypatch)
        monkeypatch.setattr("sevfork.agent.criu.attempt.lives_of", lambda _: self._lives())

        monkeypatch.setattr("sevfork.agent.criu.attempt.resident_bytes", self._resident_bytes)
        monkeypatch.setattr(
            "sevfork.agent.criu.attempt.dirty_bytes",
            lambda pid, _: len(self.dirty[int(pid)]) * PAGE_SIZE,
        )

    def _lives(self) -> dict[str, Life]:
        return {str(pid): Life(str(pid), b"%d" % self.programs.get(pid, 0)) for pid in self.memory}

    def _resident_bytes(self, pids: Iterable[str]) -> int:
        return sum(len(self.memory[int(pid)]) for pid in pids) * PAGE_SIZE

    def begin(self, pid: int) -> None:
        """A process, with pages that are there and that nobody has written."""
        self.memory[pid] = {page: b"born".ljust(PAGE_SIZE, b"\0") for page in range(200, 220)}
        self.dirty[pid] = set(self.memory[pid])
        self.programs[pid] = self.programs.get(pid, 0) + 1

    def execute(self, pid: int) -> None:
        """Another program, whose vDSO lies elsewhere and never counts as changed."""
        self.begin(pid)
        self.memory[pid] |= {page: b"vdso".ljust(PAGE_SIZE, b"\0") for page in range(400, 520)}

    def end(self, pid: int) -> None:
        self.memory.pop(pid, None)

    def unmap(self, pid: int, page: int) -> None:
        self.memory[pid].pop(page, None)

    def write(self, pid: int, page: int, content: bytes) -> None:
        self.memory.setdefault(pid, {})[page] = content.ljust(PAGE_SIZE, b"\0")
        self.dirty.setdefault(pid, set()).add(page)

    def _write_images(self, directory: Path, parent: Value | None) -> None:
        super()._write_images(directory, parent)
        for number, (pid, pages) in enumerate(sorted(self.memory.items()), start=10):
            earlier = directory / "parent" / f"pagemap-{pid}.img"
            known = _pages_of(PageMap(earlier)) if earlier.exists() else set()
            held = self.dirty[pid] & pages.keys() if earlier.exists() else set(pages)
            missing = pages.keys() - held - known
            if missing:
                log = (
                    f"(1) Error (criu/page-xfer.c:299): Missing {min(missing)} in parent pagemap\n"
                )
                (directory / "criu.log").write_text(log)
                raise CriuRefused("criu: failed")
            runs = [PageRun(n * PAGE_SIZE, 1, held=n in held) for n in sorted(pages)]
            page_map = PageMap.create(directory / f"pagemap-{pid}.img", number, runs)
            content = b"".join(pages[n] for n in sorted(pages) if n in held)
            page_map.pages.write_bytes(content)
            self.dirty[pid] = set(pages) if self.busy else set()
        if self.shared_memory:
            PageMap.create(directory / "pagemap-shmem-3.img", 3, [PageRun(0, 1, held=True)])
        if self.link and parent is not None:
            (directory / "parent").unlink()
            (directory / "parent").symlink_to(self.link)


def _pages_of(page_map: PageMap) -> set[int]:
    return {
        entry.address // PAGE_SIZE + n for entry in page_map.entries() for n in range(entry.count)
    }


def restored_pages(copy: Path, pid: int, asked: Set[int] | None = None) -> dict[int, bytes]:
    """What CRIU would restore of a process: each page from the first copy that holds it.

    ``asked``: of all pages that the copy's map has, or of these only. Raises KeyError if one is in
    no copy.
    """
    path = copy / f"pagemap-{pid}.img"
    if asked is None and not path.exists():
        return {}
    page_map, found, place, below = PageMap(path), dict[int, bytes](), 0, set[int]()
    content = page_map.pages.read_bytes() if path.exists() else b""
    for entry in page_map.entries() if path.exists() else ():
        first = entry.address // PAGE_SIZE
        pages = range(first, first + entry.count)
        wanted = pages if asked is None else [page for page in asked if page in pages]
        if entry.held:
            for page in wanted:
                start = (place + page - first) * PAGE_SIZE
                found[page] = content[start : start + PAGE_SIZE]
            place += entry.count
        else:
            below.update(wanted)
    assert len(content) <= place * PAGE_SIZE
    if asked is not None and found.keys() | below != asked:
        raise KeyError(asked - below - found.keys())
    return found | restored_pages(copy / "parent", pid, below) if below else found
