"""Chains: a base, and updates of it, give what the workload was at the last freeze."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from sevfork.agent.criu.engine import CriuEngine
from sevfork.agent.criu.page_maps import PAGE_SIZE
from sevfork.agent.criu.rpc import Option, Request
from sevfork.agent.engine import TrackingLost
from sevfork.errors import NotAuthentic, RefusedByGuest, TimedOut, WrongState
from tests.support.fake_criu import (
    WORKLOAD,
    FakeContainer,
    MemoryCriu,
    left_over,
    names,
    restored_pages,
    silent,
)
from tests.support.stored import stored_bytes


@pytest.fixture
def criu(monkeypatch: pytest.MonkeyPatch) -> MemoryCriu:
    fake = MemoryCriu()
    fake.install(monkeypatch)
    for page in range(100):
        fake.write(7, page, b"base")
    return fake


@pytest.fixture
def container(tmp_path: Path) -> FakeContainer:
    return FakeContainer.with_a_file(tmp_path / "parent")


@pytest.fixture
def engine(container: FakeContainer) -> CriuEngine:
    return CriuEngine(container)


@pytest.fixture
def child(tmp_path: Path) -> CriuEngine:
    return CriuEngine(FakeContainer(WORKLOAD, tmp_path / "child"))


def base(engine: CriuEngine) -> bytes:
    sink = io.BytesIO()
    engine.capture(sink, silent, keep=True)
    return sink.getvalue()


def update(engine: CriuEngine) -> bytes:
    sink = io.BytesIO()
    engine.update(sink, silent)
    return sink.getvalue()


def unpack(engine: CriuEngine, *layers: bytes) -> None:
    for layer in layers:
        engine.unpack(io.BytesIO(layer))


def state(engine: CriuEngine) -> Path:
    return engine.container.state


def newest(engine: CriuEngine) -> Path:
    numbers = [int(path.name.split("-")[0]) for path in (state(engine) / "images").glob("*-last")]
    return state(engine) / "images" / f"{max(numbers)}-last"


def held_pages(engine: CriuEngine) -> int:
    """Pages that take memory, in all copies."""
    files = (state(engine) / "images").glob("*/pages-1[0-9].img")
    return sum(map(stored_bytes, files)) // PAGE_SIZE


def test_an_update_holds_the_pages_that_were_written_and_nothing_else(
    criu: MemoryCriu, engine: CriuEngine, child: CriuEngine
) -> None:
    first = base(engine)
    criu.write(7, 5, b"changed")
    criu.write(7, 300, b"new")
    second = update(engine)
    assert len(second) < len(first) - 90 * PAGE_SIZE
    unpack(child, first, second)
    assert restored_pages(newest(child), 7) == criu.memory[7]


def test_copies_of_a_chain_have_names_of_their_own_and_build_on_each_other(
    criu: MemoryCriu, engine: CriuEngine
) -> None:
    layers = [base(engine), update(engine), update(engine)]
    copies = [{name.split("/")[1] for name in names(each) if "images/" in name} for each in layers]
    assert [sorted(each) for each in copies] == [["0-0", "0-last"], ["1-last"], ["2-last"]]
    links = [options.get(Option.PARENT_IMG) for _, options in criu.requests]
    assert links == [None, "../0-0", "../0-last", "../1-last"]


def test_an_update_of_much_memory_is_copied_before_the_freeze_too(
    criu: MemoryCriu, engine: CriuEngine, child: CriuEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sevfork.agent.criu.attempt._WORTH_A_COPY_BYTES", 50 * PAGE_SIZE)
    layers = [base(engine)]
    for page in range(49):
        criu.write(7, page, b"not much")
    layers.append(update(engine))
    for page in range(50):
        criu.write(7, page, b"much")
    layers.append(update(engine))
    criu.begin(8)
    for page in range(30):
        criu.write(8, page, b"nothing of it is there")
    layers.append(update(engine))
    links = [options.get(Option.PARENT_IMG) for _, options in criu.requests[2:]]
    assert links == ["../0-last", "../1-last", "../2-0", "../2-last", "../3-0"]
    unpack(child, *layers)
    assert [restored_pages(newest(child), pid) for pid in (7, 8)] == [
        criu.memory[7],
        criu.memory[8],
    ]


def test_what_is_written_all_the_time_is_copied_twice_before_the_freeze(
    criu: MemoryCriu, engine: CriuEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sevfork.agent.criu.attempt._WORTH_A_COPY_BYTES", 1)
    criu.busy = True
    base(engine)
    kinds = [kind for kind, _ in criu.requests]
    assert kinds == [Request.PRE_DUMP, Request.PRE_DUMP, Request.DUMP]


@pytest.mark.parametrize("seed", range(15))
def test_any_chain_gives_memory_and_files_of_the_last_freeze(
    criu: MemoryCriu, container: FakeContainer, engine: CriuEngine, child: CriuEngine, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311  # a test's choice, not a secret
    layer = base(engine)
    for number in range(6):
        unpack(child, layer)
        holds_what_there_was(child, criu)
        assert (state(child) / "files" / "file").read_text() == (
            container.upper / "file"
        ).read_text()
        if chance.random() < 0.7:
            child.settle()
            holds_what_there_was(child, criu)
        live(criu, chance)
        (container.upper / "file").write_text(f"{seed} {number}")
        layer = update(engine)


def holds_what_there_was(child: CriuEngine, criu: MemoryCriu) -> None:
    for pid in range(7, 12):
        assert restored_pages(newest(child), pid) == criu.memory.get(pid, {})


def live(criu: MemoryCriu, chance: random.Random) -> None:
    """Processes are born, write, unmap, and go; some get the number of one that is gone."""
    for pid in range(8, 12):
        if chance.random() < 0.3:
            criu.end(pid)
        if chance.random() < 0.3:
            criu.begin(pid)
    for _ in range(chance.randrange(60)):
        pid, page = chance.choice(sorted(criu.memory)), chance.randrange(120)
        if chance.random() < 0.2:
            criu.unmap(pid, page)
        else:
            criu.write(pid, page, chance.randbytes(8))


def test_settling_gives_back_what_was_replaced(
    criu: MemoryCriu, engine: CriuEngine, child: CriuEngine
) -> None:
    unpack(child, base(engine))
    child.settle()
    at_first = held_pages(child)
    for _ in range(8):
        for page in range(50, 100):
            criu.write(7, page, b"again")
        unpack(child, update(engine))
        child.settle()
    assert held_pages(child) <= at_first + 8  # a page at the head of each copy
    for page in range(1, 100):
        criu.unmap(7, page)
    criu.write(7, 0, b"all that is left")
    unpack(child, update(engine))
    child.settle()
    assert held_pages(child) <= 2
    assert restored_pages(newest(child), 7) == criu.memory[7]


def test_of_a_layer_that_another_follows_only_memory_is_kept(
    criu: MemoryCriu, engine: CriuEngine, child: CriuEngine
) -> None:
    unpack(child, base(engine), update(engine))
    images = state(child) / "images"
    assert (images / "1-last" / "inventory.img").exists()
    assert {path.name for path in (images / "0-last").iterdir()} == {
        "pagemap-7.img",
        "pages-1.img",
        "pages-10.img",
        "parent",
    }


def test_no_page_and_no_shared_memory_is_kept_in_the_parent(
    criu: MemoryCriu, engine: CriuEngine
) -> None:
    criu.shared_memory = True
    base(engine)
    kept = state(engine) / "kept" / "0-last"
    assert sorted(path.name for path in kept.iterdir()) == ["inventory.img", "pagemap-7.img"]
    assert 0 < engine.kept_bytes < 20_000


def lose_by_a_one_off_capture(engine: CriuEngine, _: MemoryCriu) -> None:
    engine.capture(io.BytesIO(), silent)


def lose_by_a_trial(engine: CriuEngine, _: MemoryCriu) -> None:
    assert engine.probe() is None


def lose_by_forgetting(engine: CriuEngine, _: MemoryCriu) -> None:
    engine.forget()


def lose_by_a_refusal(engine: CriuEngine, criu: MemoryCriu) -> None:
    criu.logs = {len(criu.requests) + 1: "(1) Error (criu/x.c:1): no\n"}
    with pytest.raises(RefusedByGuest):
        engine.capture(io.BytesIO(), silent, keep=True)


def lose_by_a_refused_update(engine: CriuEngine, criu: MemoryCriu) -> None:
    criu.logs = {len(criu.requests) + 1: "(1) Error (criu/x.c:1): no\n"}
    with pytest.raises(RefusedByGuest):
        update(engine)


def lose_by_another_start(engine: CriuEngine, _: MemoryCriu) -> None:
    assert isinstance(engine.container, FakeContainer)
    engine.container.starts.append(2)


def lose_by_an_agent_that_was_started_again(engine: CriuEngine, _: MemoryCriu) -> None:
    engine.clear()
    engine.__init__(engine.container)  # type: ignore[misc]  # as the next agent makes it


@pytest.mark.parametrize(
    "lose",
    [
        lose_by_a_one_off_capture,
        lose_by_a_trial,
        lose_by_forgetting,
        lose_by_a_refusal,
        lose_by_a_refused_update,
        lose_by_another_start,
        lose_by_an_agent_that_was_started_again,
    ],
)
def test_without_the_capture_before_there_is_no_update(
    criu: MemoryCriu,
    engine: CriuEngine,
    lose: Callable[[CriuEngine, MemoryCriu], object],
) -> None:
    base(engine)
    lose(engine, criu)
    with pytest.raises(TrackingLost):
        update(engine)
    assert engine.kept_bytes == 0
    assert left_over(state(engine)) == []
    base(engine)
    update(engine)


def test_nothing_is_updated_before_a_base(criu: MemoryCriu, engine: CriuEngine) -> None:
    with pytest.raises(TrackingLost, match="no earlier capture"):
        update(engine)
    assert criu.requests == []


def test_a_container_that_is_busy_does_not_lose_what_is_kept(
    criu: MemoryCriu, engine: CriuEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(_: object, __: float) -> None:
        raise TimedOut("the container is busy")

    base(engine)
    with monkeypatch.context() as patch:
        patch.setattr(FakeContainer, "undisturbed", busy)
        with pytest.raises(TimedOut):
            update(engine)
    update(engine)


def test_a_process_that_became_another_program_is_whole_in_the_update(
    criu: MemoryCriu, engine: CriuEngine, child: CriuEngine
) -> None:
    first = base(engine)
    criu.execute(7)
    second = update(engine)
    kinds = [kind for kind, _ in criu.requests]
    assert kinds == [Request.PRE_DUMP, Request.DUMP, Request.DUMP]
    assert len(second) > 100 * PAGE_SIZE
    unpack(child, first, second)
    child.settle()
    assert restored_pages(newest(child), 7) == criu.memory[7]


def test_an_update_whose_memory_criu_does_not_find_holds_all_of_it(
    criu: MemoryCriu, engine: CriuEngine, child: CriuEngine
) -> None:
    first = base(engine)
    criu.memory[7][500] = b"readable only now".ljust(PAGE_SIZE, b"\0")
    second = update(engine)
    assert [options.get(Option.PARENT_IMG) for _, options in criu.requests[2:]] == [
        "../0-last",
        None,
        "../1-0",
    ]
    unpack(child, first, second)
    assert not (state(child) / "images" / "0-last").exists()
    assert restored_pages(newest(child), 7) == criu.memory[7]
    unpack(child, update(engine))
    assert restored_pages(newest(child), 7) == criu.memory[7]


def test_what_would_take_too_much_of_the_guest_is_not_kept(
    criu: MemoryCriu, engine: CriuEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sevfork.agent.criu.engine.total_bytes", lambda: 4096)
    base(engine)
    assert engine.kept_bytes == 0
    with pytest.raises(TrackingLost):
        update(engine)


def test_layers_that_do_not_follow_each_other_are_refused(
    criu: MemoryCriu, engine: CriuEngine, child: CriuEngine
) -> None:
    first, second, third = base(engine), update(engine), update(engine)
    for layers in ((second,), (first, third), (first, first)):
        with pytest.raises(NotAuthentic):
            unpack(child, *layers)
        with pytest.raises(WrongState):
            child.settle()
    unpack(child, first, second, third)
    child.discard()
    assert left_over(state(child)) == []
    unpack(child, first)


@pytest.mark.parametrize("link", ["../../etc", "/etc", "../0-last/parent", "../1-last", "../."])
def test_a_copy_builds_on_one_that_is_beside_it(
    criu: MemoryCriu, engine: CriuEngine, child: CriuEngine, link: str
) -> None:
    criu.link = link
    layer = base(engine)
    with pytest.raises(NotAuthentic, match="builds on"):
        unpack(child, layer)
