"""The parts of the benchmark that start nothing: rows, the table, the picture, what peers print."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from xml.etree import ElementTree

import pytest
import redis
from rich.console import Console

from scripts.bench import against, guests, sealing
from scripts.bench.figures import Row, missing, table, write_json
from scripts.bench.forks import Session
from scripts.bench.seal_speed import parse_openssl
from scripts.bench.timeline import Phase, phases, write_svg

SLOW = Row("b", "warm", 5.0, "s", peer="cold", peer_value=10.0, most=0.25)
QUICK = Row("b", "warm", 2.0, "s", peer="cold", peer_value=10.0, most=0.25)
ALONE = Row("f", "memory", 512.0, "MiB")
ABSENT = missing("a", "virsh save", "not supported")


@pytest.mark.parametrize(
    ("row", "ratio", "met"),
    [(SLOW, 0.5, False), (QUICK, 0.2, True), (ALONE, None, None), (ABSENT, None, None)],
)
def test_a_row_has_a_verdict_where_it_has_a_peer_and_an_aim(
    row: Row, ratio: float | None, met: bool | None
) -> None:
    assert (row.ratio, row.met) == (ratio, met)


def test_a_peer_of_nothing_gives_no_ratio() -> None:
    assert Row("d", "captured", 1.0, "MiB", peer="written", peer_value=0.0, most=1.3).met is None


def test_the_table_says_what_was_not_met_and_what_is_missing() -> None:
    console = Console(width=200, record=True)
    console.print(table([SLOW, QUICK, ALONE, ABSENT], "a title"))
    shown = console.export_text()
    for word in ("0.50", "<= 0.25 not met", "<= 0.25 met", "512 MiB", "not measured: not supp"):
        assert word in shown


def test_the_document_has_the_environment_and_all_rows(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "bench.json", [SLOW, ABSENT], {"cpus": 2})
    document = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert (document["schema"], document["environment"]) == (1, {"cpus": 2})
    assert [row["met"] for row in document["rows"]] == [False, None]


def test_the_rate_of_openssl_is_read() -> None:
    text = "version: 3.0.19\noptions: bn(64,64)\nAES-256-GCM    2097152.00k\n"
    assert parse_openssl(text) == 2000.0
    with pytest.raises(ValueError, match="openssl"):
        parse_openssl("AES-128-GCM 5k")


LOG = """\
    316 ms sevfork.lifecycle.progress: web, phase: connect
    320 ms sevfork.host.libvirt.errors: domains
    900 ms sevfork.lifecycle.progress: web, phase: copy
   1000 ms sevfork.lifecycle.progress: web-fork, phase: boot
   1500 ms sevfork.lifecycle.progress: web, phase: copy
   2900 ms sevfork.lifecycle.progress: web, phase: captured
   5000 ms sevfork.lifecycle.progress: web-fork, phase: ready
"""


def test_a_phase_lasts_until_the_next_of_its_vm() -> None:
    assert phases(LOG.splitlines(), 6.0) == [
        Phase("web", "connect", 0.316, 0.9),
        Phase("web", "copy", 0.9, 2.9),
        Phase("web-fork", "boot", 1.0, 5.0),
    ]


def test_the_picture_has_a_box_a_phase(tmp_path: Path) -> None:
    path = tmp_path / "timeline.svg"
    write_svg(path, [("cold", phases(LOG.splitlines(), 6.0)), ("warm", [])], "emulated")
    svg = ElementTree.parse(path).getroot()  # noqa: S314  # it is our own
    boxes = [each for each in svg if each.tag.endswith("rect")]
    assert [box[0].text for box in boxes] == ["connect: 0.58 s", "copy: 2.00 s", "boot: 4.00 s"]
    assert "emulated" in [each.text for each in svg]


def test_so_many_of_the_pages_are_written_as_was_said() -> None:
    data = guests.values(3)
    assert sum(map(len, data.values())) == 3 * 2**20

    class Client:
        def __init__(self) -> None:
            self.places: set[tuple[str, int]] = set()

        def pipeline(self, transaction: bool) -> Client:
            return self

        def setrange(self, name: str, offset: int, value: bytes) -> None:
            self.places.add((name, offset // guests.PAGE_BYTES))

        def execute(self) -> None: ...

    for percent in (0, 1, 10, 50):
        client = Client()
        size = guests.dirty(client, data, percent)  # type: ignore[arg-type]
        assert size == len(client.places) * guests.PAGE_BYTES
        assert abs(len(client.places) - 512 * percent / 100) <= 2
        assert "key:2" not in {name for name, _ in client.places}, "the one that is asked for"


REPORT = {"threads": 2, "sevfork": {"seal": 500.0, "unseal": 250.0}, "openssl": 1000.0}


@pytest.mark.parametrize(("where", "aim"), [("natively", 1.25), ("in a guest", None)])
def test_rates_become_times_beside_openssl(where: str, aim: float | None) -> None:
    found = list(sealing.rows(REPORT, where))
    assert [(row.value, row.peer_value, row.most) for row in found] == [
        (200.0, 100.0, aim),
        (400.0, 100.0, aim),
    ]


def test_what_a_fork_takes_is_set_against_an_earlier_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextmanager
    def checked_out(commit: str) -> Iterator[against.Earlier]:
        yield against.Earlier(commit, Path("tree"), Path("state"))

    monkeypatch.setattr(against, "checked_out", checked_out)
    monkeypatch.setattr(against.Earlier, "fork_s", lambda *_: 24.0)
    cold, warm = against.rows("90f3c5e", 100, "1G", {"cold": 12.0, "warm": 6.0})
    assert (cold.ratio, cold.met) == (0.5, True)
    assert (warm.ratio, warm.met) == (0.25, False)


def test_a_full_pool_is_compared_with_one_child_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests, "pool", lambda *_: nullcontext())
    monkeypatch.setattr(guests, "remove", lambda *_, **__: None)
    monkeypatch.setattr(Session, "_fork", lambda *_: ({}, 9.0))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    session = Session("parent", 1, "", warm_s=2.0)
    session.full_pool(8)
    (row,) = session.rows
    assert (row.peer, row.peer_value, row.ratio, row.met) == ("4 times one", 8.0, 1.125, True)


def test_a_client_that_broke_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def ping(self) -> None: ...

        def incr(self, _: str) -> int:
            raise redis.ConnectionError("gone")

    monkeypatch.setattr(guests, "connect", lambda _: Broken())
    with pytest.raises(SystemExit, match="broke: gone"), guests.waiting({"name": "web"}):
        pass


def test_a_guest_that_fails_is_a_row_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: str) -> None:
        raise SystemExit("sevfork guest build ended with 13\nits log")

    monkeypatch.setattr(sealing, "sevfork", fails)
    monkeypatch.setattr("shutil.copy", lambda *_: None)
    (row,) = sealing.in_a_guest("bench", tmp_path)
    assert row.note == "not measured: sevfork guest build ended with 13"
