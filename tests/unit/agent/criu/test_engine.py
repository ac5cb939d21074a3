"""A capture from end to end, with a CRIU that behaves: it writes images, asks, and can refuse."""

from __future__ import annotations

import io
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import pytest

from sevfork.agent.container.container import Container
from sevfork.agent.criu import rpc
from sevfork.agent.criu.engine import CriuEngine
from sevfork.agent.criu.rpc import Option, Request
from sevfork.errors import NotAuthentic, RefusedByGuest, SevforkError, TimedOut, WrongState
from tests.support.fake_criu import (
    WORKLOAD,
    FakeContainer,
    FakeCriu,
    left_over,
    names,
    silent,
)


@pytest.fixture
def criu(monkeypatch: pytest.MonkeyPatch) -> FakeCriu:
    fake = FakeCriu()
    fake.install(monkeypatch)
    return fake


@pytest.fixture
def container(tmp_path: Path) -> FakeContainer:
    return FakeContainer.with_a_file(tmp_path)


def test_files_come_first_and_what_changed_until_the_freeze_comes_last(
    criu: FakeCriu, container: FakeContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sevfork.agent.container.layer._TICK_NS", -(10**12))  # it is old enough
    criu.while_frozen = lambda: (container.upper / "file").write_text("at the freeze")
    sink, phases = io.BytesIO(), list[str]()
    cost = CriuEngine(container).capture(sink, phases.append)
    assert names(sink.getvalue()) == [
        "files/.",
        "files/file",
        "images/0-0/pages-1.img",
        "images/0-0/inventory.img",
        "images/0-0/stats-dump",
        "images/0-last/pages-1.img",
        "images/0-last/beside",
        "images/0-last/descriptors.json",
        "images/0-last/device",
        "images/0-last/inventory.img",
        "images/0-last/output",
        "images/0-last/parent",
        "images/0-last/stats-dump",
        "removed",
        "files/file",
        "inodes",
        "end",
    ]
    assert phases == ["copy", "freeze", "export"]
    assert cost.memory_bytes == 12000
    assert cost.earlier_pauses_ms == (5.0,)
    assert left_over(container.state) == []


def test_a_capture_is_unpacked_as_it_was_at_the_freeze(
    criu: FakeCriu, container: FakeContainer, tmp_path: Path
) -> None:
    criu.while_frozen = lambda: (container.upper / "file").write_text("at the freeze")
    sink = io.BytesIO()
    CriuEngine(container).capture(sink, silent)
    child = FakeContainer(WORKLOAD, tmp_path / "child")
    CriuEngine(child).unpack(io.BytesIO(sink.getvalue()))
    assert (child.state / "files" / "file").read_text() == "at the freeze"
    images = child.state / "images"
    assert (images / "0-last" / "parent" / "pages-1.img").read_bytes() == b"memory" * 1000
    with pytest.raises(NotAuthentic):
        CriuEngine(child).unpack(io.BytesIO(sink.getvalue()[:-2048]))


def test_connections_are_left_alone_in_the_parent(criu: FakeCriu, container: FakeContainer) -> None:
    CriuEngine(container).capture(io.BytesIO(), silent)
    for _, options in criu.requests:
        assert options[Option.TCP_CLOSE] is True
        assert options[Option.NETWORK_LOCK] == rpc.NETWORK_LOCK_SKIP
        assert options[Option.LEAVE_RUNNING] is True


def test_a_refusal_is_given_in_words(criu: FakeCriu, container: FakeContainer) -> None:
    criu.logs = {2: "(00.1) Error (criu/files.c:1): send_fds failed (-22)\n"}
    refusing = FakeContainer(WORKLOAD, container.state, held=frozenset({"io_uring"}))
    with pytest.raises(RefusedByGuest, match="uses io_uring"):
        CriuEngine(refusing).capture(io.BytesIO(), silent)
    assert left_over(container.state) == []
    criu.requests.clear()
    assert "do without it" in cast(str, CriuEngine(refusing).probe())


def test_a_probe_that_succeeds_has_nothing_to_say(criu: FakeCriu, container: FakeContainer) -> None:
    assert CriuEngine(container).probe() is None
    assert left_over(container.state) == []


def test_a_process_that_became_another_program_is_copied_anew(
    criu: FakeCriu, container: FakeContainer
) -> None:
    criu.logs = {2: "(00.1) Error (criu/page-xfer.c:299): Missing 7f00 in parent pagemap\n"}
    sink = io.BytesIO()
    cost = CriuEngine(container).capture(sink, silent)
    kinds = [kind for kind, _ in criu.requests]
    assert kinds == [Request.PRE_DUMP, Request.DUMP, Request.PRE_DUMP, Request.DUMP]
    assert Option.PARENT_IMG not in criu.requests[2][1]
    assert criu.requests[3][1][Option.PARENT_IMG] == "../0-1"
    assert len(cost.earlier_pauses_ms) == 3


def test_a_workload_that_never_stands_still_is_given_up(
    criu: FakeCriu, container: FakeContainer
) -> None:
    line = "(00.1) Error (criu/page-xfer.c:299): Missing 7f00 in parent pagemap\n"
    criu.logs = {2: line, 4: line, 6: line}
    with pytest.raises(RefusedByGuest, match="faster than CRIU"):
        CriuEngine(container).capture(io.BytesIO(), silent)
    assert len(criu.requests) == 6


def test_a_sink_that_breaks_leaves_nothing_behind(criu: FakeCriu, container: FakeContainer) -> None:
    class Broken(io.BytesIO):
        def write(self, data: bytes, /) -> int:  # type: ignore[override]  # bytes are enough
            if self.tell() > 4000:
                raise OSError(5, "the volume is gone")
            return super().write(data)

    with pytest.raises(OSError, match="the volume is gone"):
        CriuEngine(container).capture(Broken(), silent)
    assert left_over(container.state) == []


def test_files_that_cannot_be_copied_while_frozen_make_criu_roll_back(
    criu: FakeCriu, container: FakeContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr("sevfork.agent.container.layer.LayerCopy.copy_frozen", full)
    with pytest.raises(OSError, match="no space"):
        CriuEngine(container).capture(io.BytesIO(), silent)
    assert criu.rolled_back
    assert left_over(container.state) == []


def test_a_workload_that_has_ended_is_not_blamed_for_what_criu_says(
    criu: FakeCriu, container: FakeContainer
) -> None:
    container.state_of_life["running"] = False
    with pytest.raises(WrongState, match="'app' has ended"):
        CriuEngine(container).capture(io.BytesIO(), silent)
    assert criu.requests == []


def test_what_an_earlier_agent_left_behind_is_removed(container: FakeContainer) -> None:
    for name in ("capture", "warm-up", "restore", "kept", "images"):
        (container.state / name / "0").mkdir(parents=True)
        (container.state / name / "0" / "pages-1.img").write_bytes(b"memory")
    CriuEngine(container).clear()
    assert left_over(container.state) == []
    assert (container.upper / "file").exists()


def test_a_trial_that_fails_in_any_way_is_a_reason_not_to_fork(
    criu: FakeCriu, container: FakeContainer
) -> None:
    def broken() -> None:
        raise ValueError("customers.db")

    criu.while_frozen = broken
    reason = cast(str, CriuEngine(container).probe())
    assert reason.startswith("a trial capture failed unexpectedly (ValueError at sevfork/agent/")
    assert "customers" not in reason


def test_a_trial_that_takes_too_long_is_a_reason_not_to_fork(
    criu: FakeCriu, container: FakeContainer
) -> None:
    def late() -> None:
        raise TimedOut("criu did not answer in time")

    criu.while_frozen = late
    assert CriuEngine(container).probe() == "criu did not answer in time"


def test_a_copy_that_does_not_fit_is_refused_before_it_is_begun(
    criu: FakeCriu, container: FakeContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sevfork.agent.criu.memory.RESERVE_BYTES", 2**60)
    with pytest.raises(RefusedByGuest, match="too little memory"):
        CriuEngine(container).capture(io.BytesIO(), silent)
    assert criu.requests == []
    assert left_over(container.state) == []


def test_copies_for_which_a_child_has_no_room_are_refused_before_there_is_one(
    criu: FakeCriu, container: FakeContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used_up() -> None:
        monkeypatch.setattr("sevfork.agent.criu.memory.PROGRAMS_BYTES", 2**60)

    criu.while_frozen, sink = used_up, io.BytesIO()
    with pytest.raises(RefusedByGuest, match="a child would have to hold"):
        CriuEngine(container).capture(sink, silent)
    assert not sink.getvalue().endswith(bytes(1024)), "the capture looks whole"
    assert left_over(container.state) == []


def test_files_that_do_not_fit_while_frozen_make_criu_roll_back(
    criu: FakeCriu, container: FakeContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used_up() -> None:
        monkeypatch.setattr("sevfork.agent.criu.memory.RESERVE_BYTES", 2**60)
        (container.upper / "file").write_bytes(bytes(9 * 2**20))

    criu.while_frozen = used_up
    with pytest.raises(RefusedByGuest, match="too little memory"):
        CriuEngine(container).capture(io.BytesIO(), silent)
    assert criu.rolled_back


def test_a_restore_that_fails_names_none_of_the_workloads_files(
    criu: FakeCriu, container: FakeContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: object, verb: str, *words: str, env: object = None) -> None:
        work = Path(words[words.index("--work-path") + 1])
        (work / "restore.log").write_text(
            "(00.1) Error (criu/files-reg.c:2280): Can't open file srv/customers.db on restore\n"
        )
        raise SevforkError("runc restore: Can't open file srv/customers.db on restore")

    monkeypatch.setattr(Container, "runc_detached", refused)
    for setting in ("binding_allowed", "reserving_allowed"):
        monkeypatch.setattr(f"sevfork.agent.kernel.{setting}", nullcontext)
    with pytest.raises(SevforkError) as caught:
        CriuEngine(container)._restore(container.state)  # noqa: SLF001 - what comes before it needs CRIU's images
    assert caught.value.message == (
        "the workload could not be restored: CRIU failed at files-reg.c:2280 (Can't open file)"
    )
    assert caught.value.exit_code == 24


def test_a_datagram_that_waits_is_given_three_tries_to_be_read(
    criu: FakeCriu, container: FakeContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = iter((True, True, False))
    monkeypatch.setattr(
        "sevfork.agent.criu.unsupported.datagrams_wait", lambda: next(waiting, True)
    )
    CriuEngine(container).capture(io.BytesIO(), silent)
    with pytest.raises(RefusedByGuest, match="a datagram waits") as refused:
        CriuEngine(container).capture(io.BytesIO(), silent)
    assert "try again" in str(refused.value.hint)
    assert criu.rolled_back
