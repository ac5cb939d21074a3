"""What sevfork costs, beside peers on the same machine in the same run.

Prints one table, and writes it with the environment to build/bench/bench.json, and where the time
of a cold and of a warm fork went to build/bench/timeline.svg.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from scripts.bench import against, figures, guests, sealing, timeline, verification
from scripts.bench.figures import Row, missing
from scripts.bench.forks import Session
from scripts.bench.guests import sevfork
from sevfork.host import connection_choice

OUTPUT = Path("build/bench")
ROOT = Path(__file__).resolve().parents[2]
QUICK_MIB, SIZES_MIB = 100, (10, 400)
COUNTS, POOL = (4, 8, 16), 8


def environment(uri: str) -> dict[str, object]:
    """Whatever the figures depend on."""
    found = {each["subject"]: each["found"] for each in sevfork("doctor").data["findings"]}
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "libvirt": found["libvirt"].split(" at ")[0],
        "qemu": found["QEMU"],
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "technology": "simulated, not confidential",
        "uri": uri.split("?")[0],
    }


@contextmanager
def session(name: str, mib: int, uri: str) -> Iterator[Session]:
    """A parent, which is gone afterwards with all that came of it."""
    try:
        yield Session(name, mib, uri)
    finally:
        guests.remove(name)


def quick(name: str, uri: str, percents: tuple[int, ...], commit: str | None) -> list[Row]:
    with session(name, QUICK_MIB, uri) as one:
        one.start("1G")
        one.cold_fork()
        one.snapshots(percents)
        one.warm_fork()
        one.rows += one.others()
        svg = [each for each in one.timelines if each[1]]
    timeline.write_svg(OUTPUT / "timeline.svg", svg, "simulated, not confidential; one child each")
    if commit is None:
        return one.rows
    taken_s = {"cold": one.cold_s, "warm": one.warm_s}
    return [*one.rows, *against.rows(commit, QUICK_MIB, "1G", taken_s)]


def full(name: str, uri: str, commit: str | None) -> list[Row]:
    rows = [*sealing.in_a_guest(f"{name}-seal", OUTPUT), *quick(name, uri, (1, 10, 50), commit)]
    for mib in SIZES_MIB:
        with session(f"{name}-{mib}", mib, uri) as one:
            one.start("2G" if mib > QUICK_MIB else "1G")
            one.cold_fork()
            one.snapshots((1,))
            one.warm_fork()
            rows += one.rows
    with session(f"{name}-many", QUICK_MIB, uri) as one:
        one.start("1G")
        one.cold_fork()
        one.many(COUNTS, "--cold")
        one.warm_fork()
        one.full_pool(POOL)
        rows += [row for row in one.rows if row.part == "c"]
    why = "the benchmark has no way into the guest"
    return [*rows, missing("a", "runc checkpoint --leave-running in the guest", why)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 MiB and one child only")
    parser.add_argument("--against", metavar="COMMIT", help="measure its cold fork too, for part b")
    options = parser.parse_args()
    os.chdir(ROOT)
    began, name = time.monotonic(), f"bench-{os.getpid()}"
    connection = connection_choice.connect(None, guests.console.print)
    uri = connection.uri
    connection.close()
    where = environment(uri)
    sevfork("guest", "build", "-o", guests.IMAGE, "--workload", guests.WORKLOAD)
    rows = [*sealing.natively(), *verification.rows()]
    commit = options.against
    rows += quick(name, uri, (1, 10), commit) if options.quick else full(name, uri, commit)
    where["taken_s"] = round(time.monotonic() - began)
    figures.write_json(OUTPUT / "bench.json", rows, where)
    machine = f"{where['cpus']} CPUs, QEMU {where['qemu']}, libvirt {where['libvirt']}"
    title = f"sevfork on {machine}; simulated, not confidential; see docs/benchmark.md"
    Console().print(figures.table(sorted(rows, key=lambda row: row.part), title))


if __name__ == "__main__":
    main()
