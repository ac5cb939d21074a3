"""Forks of one Redis, cold and warm, and its snapshot: parts a to d and f of the table."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from scripts.bench import guests, peers
from scripts.bench.figures import Row, missing
from scripts.bench.guests import sevfork
from scripts.bench.timeline import Phase, phases

_MIB = 2**20
_UPDATES = 3


@dataclass
class Session:
    """One parent with ``mib`` of data, and what has been measured of it so far."""

    name: str
    mib: int
    uri: str
    rows: list[Row] = field(default_factory=list)
    timelines: list[tuple[str, Sequence[Phase]]] = field(default_factory=list)
    boot_and_load_s: float = 0.0
    cold_s: float = 0.0
    warm_s: float = 0.0
    cold_pause_ms: float = 0.0
    kept_bytes: int = 0

    def __post_init__(self) -> None:
        self.data = guests.values(self.mib)
        self.parent: dict[str, Any] = {}

    def row(self, part: str, what: str, value: float, unit: str, **peer: Any) -> None:
        self.rows.append(Row(part, f"{self.mib} MiB: {what}", value, unit, **peer))

    def start(self, memory: str) -> None:
        began = time.monotonic()
        words = ("up", self.name, "--image", guests.IMAGE, "--publish", "6379", "--memory", memory)
        self.parent = sevfork(*words).data["vm"]
        guests.load(guests.connect(self.parent), self.data)
        guests.answers(self.parent, self.data)
        self.boot_and_load_s = time.monotonic() - began

    def cold_fork(self) -> None:
        with guests.waiting(self.parent) as client:
            forked, self.cold_s = self._fork("--cold")
        self.cold_pause_ms = forked["pause_ms"]
        peer = {"peer": "boot and load", "peer_value": self.boot_and_load_s}
        self.row("b", "first right answer, cold", self.cold_s, "s", **peer)
        self.row("a", "pause of a fork, no snapshot", self.cold_pause_ms, "ms")
        self.row("a", "a client's longest wait, cold fork", client.longest_ms, "ms")
        self.row("f", "memory of a child's QEMU", guests.resident_mib(forked["children"][0]), "MiB")
        guests.remove(self.name, children_only=True)

    def snapshots(self, percents: Sequence[int]) -> None:
        """The base, an update for which nothing was written, then others."""
        base = sevfork("snapshot", self.name).data
        self.row("a", "pause of a snapshot's base", base["pause_ms"], "ms")
        floor_ms, floor_mib, _ = self._updates(0)
        self.row("a", "pause of an update, nothing written (floor)", floor_ms, "ms")
        for percent in percents:
            pause_ms, state_mib, written_mib = self._updates(percent)
            what = f"{percent} % of the pages written"
            floor = {"peer": "floor", "peer_value": floor_ms}
            self.row("a", f"pause of an update, {what}", pause_ms, "ms", **floor)
            pages = {"peer": "those pages", "peer_value": written_mib, "most": 1.3}
            note = f"less the floor, which is {floor_mib:.2f} MiB"
            self.row("d", f"captured, {what}", state_mib - floor_mib, "MiB", **pages, note=note)
        self.row("f", "kept in the parent's guest for updates", self.kept_bytes / 1024, "KiB")
        self.row("f", "memory of the parent's QEMU", guests.resident_mib(self.parent), "MiB")

    def _updates(self, percent: int) -> tuple[float, float, float]:
        """Medians of some updates: pause in ms, MiB of state, MiB of pages that were written."""
        pauses, states, written = [], [], 0
        for _ in range(_UPDATES):
            written = guests.dirty(guests.connect(self.parent), self.data, percent)
            made = sevfork("snapshot", self.name).data
            pauses.append(made["pause_ms"])
            states.append(made["state_bytes"] / _MIB)
            self.kept_bytes = made["kept_bytes"]
        return statistics.median(pauses), statistics.median(states), written / _MIB

    def warm_fork(self) -> None:
        with guests.pool(self.name, 1):
            warm = [vm for vm in guests.listed() if vm["state"] == "warm"]
            self.row("f", "memory of a warm child's QEMU", guests.resident_mib(warm[0]), "MiB")
            held = warm[0]["warm"]["held_bytes"] / _MIB
            self.row("f", "of it held for the fork", held, "MiB")
            with guests.waiting(self.parent) as client:
                forked, self.warm_s = self._fork()
        for peer, value in (("cold fork", self.cold_s), ("boot and load", self.boot_and_load_s)):
            aim = {"peer": peer, "peer_value": value, "most": 0.25}
            self.row("b", "first right answer, warm", self.warm_s, "s", **aim)
        aim = {"peer": "no snapshot", "peer_value": self.cold_pause_ms}
        self.row("a", "pause of a fork with a snapshot", forked["pause_ms"], "ms", **aim)
        self.row("a", "a client's longest wait, warm fork", client.longest_ms, "ms")
        guests.remove(self.name, children_only=True)

    def full_pool(self, size: int) -> None:
        """All of a pool's children at once. Two cores restore two of them at a time."""
        with guests.pool(self.name, size):
            _, taken_s = self._fork("-n", str(size))
        rounds = math.ceil(size / (os.cpu_count() or 1))
        aim = {"peer": f"{rounds} times one", "peer_value": rounds * self.warm_s, "most": 1.5}
        self.row("c", f"{size} children, warm", taken_s, "s", **aim)
        guests.remove(self.name, children_only=True)

    def many(self, counts: Sequence[int], *options: str) -> None:
        for count in counts:
            _, taken_s = self._fork("-n", str(count), *options)
            single = {"peer": f"{count} times one", "peer_value": count * self.cold_s}
            self.row("c", f"{count} children, cold", taken_s, "s", **single)
            guests.remove(self.name, children_only=True)

    def others(self) -> Iterator[Row]:
        """What the neighbours need to stand still for, with this very guest."""
        part, what = "a", f"{self.mib} MiB: a client's longest wait, QEMU's background snapshot"
        try:
            wait_ms = peers.background_snapshot_ms(self.uri, self.parent)
            yield Row(part, what, wait_ms, "ms", note="plain text, to nowhere")
        except peers.PeerFailed as exc:
            yield missing(part, what, str(exc))
        what = f"{self.mib} MiB: virsh save and restore"
        try:
            taken_s = peers.save_and_restore_s(self.uri, self.parent)
            pause_ms, note = self.cold_pause_ms, "plain text, the same guest"
            yield Row(part, what, taken_s * 1000, "ms", "pause of a fork", pause_ms, note=note)
        except peers.PeerFailed as exc:
            yield missing(part, what, str(exc))

    def _fork(self, *options: str) -> tuple[dict[str, Any], float]:
        """Until every child has given its first right answer."""
        began = time.monotonic()
        forked = sevfork("fork", self.name, *options)
        if any(child["was_warm"] == ("--cold" in options) for child in forked.data["children"]):
            raise SystemExit("a child was warm, or was not, where it should have been otherwise")
        for child in forked.data["children"]:
            guests.answers(child, self.data)
        taken_s = time.monotonic() - began
        self.timelines.append((" ".join(options), phases(forked.log, forked.taken_s)))
        return forked.data, taken_s
