"""The main job, as a user would do it: fork a running Redis and look at the children.

Everything is done through the ``sevfork`` command; this script only plays the client that a Redis
has. It exits non-zero when anything is not as it says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

from scripts.client import SEVFORK, LongestWait, pool

HERE = Path(__file__).resolve().parent.parent
KEYS = 25_600
VALUE_BYTES = 4096
BATCH = 256
# Two warm children take about half a minute on two cores that have nothing else to do.
POOL_TIMEOUT_S = 300

console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    console.print(f"[bold]==[/bold] {text}")


def sevfork(*words: str, data: bool = False) -> Any:
    """Run the command with its progress on stderr; with ``data``, return its JSON."""
    argv = [str(SEVFORK), *words, *(["--json"] if data else [])]
    console.print(f"[dim]$ sevfork {' '.join(argv[1:])}[/dim]", soft_wrap=True)
    done = subprocess.run(argv, stdout=subprocess.PIPE if data else None, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout) if data else None


def check(what: str, holds: bool) -> None:
    console.print(f"   {'[green]yes[/green]' if holds else '[red]NO[/red] '} {what}")
    if not holds:
        raise SystemExit(1)


def connect(address: str) -> redis.Redis:
    host, port = address.rsplit(":", 1)
    return redis.Redis(host=host, port=int(port), socket_timeout=60, single_connection_client=True)


def value(key: int) -> bytes:
    """Incompressible and different for every key."""
    import random

    return random.Random(key).randbytes(VALUE_BYTES)  # noqa: S311 - test data, not a secret


def fill(client: redis.Redis) -> None:
    for start in range(0, KEYS, BATCH):
        client.mset({f"key:{key}": value(key) for key in range(start, start + BATCH)})


def holds_every_key(client: redis.Redis) -> bool:
    if client.dbsize() < KEYS:
        return False
    for start in range(0, KEYS, BATCH):
        keys = range(start, start + BATCH)
        if client.mget([f"key:{key}" for key in keys]) != [value(key) for key in keys]:
            return False
    return True


def demo(count: int, name: str) -> None:
    os.chdir(HERE)
    image, workload = "build/images/redis", "firmware/workloads/redis.toml"
    say("building the guest image (cached when nothing has changed)")
    sevfork("guest", "build", "-o", image, "--workload", workload)

    say("starting the parent: a measured guest with a Redis in it")
    up = sevfork("up", name, "--image", image, "--publish", "6379", data=True)
    address = up["vm"]["ports"][0]["address"]
    parent = connect(address)

    say(f"writing {KEYS * VALUE_BYTES // 2**20} MiB of keys into the parent")
    fill(parent)
    parent.set("last-write", "before the fork")
    counted_before = int(parent.get("counter") or 0)

    say(f"forking it {count} times while a client goes on writing")
    with LongestWait(connect(address)) as client:
        fork = sevfork("fork", name, "-n", str(count), data=True)
    counted_after = client.count
    parent.set("last-write", "after the fork, in the parent")

    say("what the parent and its children hold")
    check("the connection that was open before the fork still works", client.error is None)
    children = [
        (child["name"], connect(child["ports"][0]["address"])) for child in fork["children"]
    ]
    check(f"there are {count} children", len(children) == count)
    counters = set()
    for child_name, child in children:
        check(f"{child_name} holds all {KEYS} keys", holds_every_key(child))
        check(
            f"{child_name} has the last write before the fork and none after it",
            child.get("last-write") == b"before the fork",
        )
        counters.add(int(child.get("counter") or 0))
        child.set("own", child_name)
    check("every child is of the same instant", len(counters) == 1)
    check(
        "and that instant lies within the fork",
        counted_before <= counters.pop() <= counted_after,
    )
    check(
        "what a child writes is in no other VM",
        parent.get("own") is None
        and all(child.get("own") == child_name.encode() for child_name, child in children),
    )
    report(fork, client.longest_ms)
    fork_warm(name, parent, fork)
    sevfork("ls", "--tree")


def fork_warm(name: str, parent: redis.Redis, cold: dict[str, Any]) -> None:
    """The same fork again, from a pool of warm children: launched and attested ahead."""
    count = len(cold["children"])
    say(f"keeping {count} warm children, and forking again")
    console.print(f"[dim]$ sevfork pool {name} --size {count} --every 60s &[/dim]")
    with pool(name, count, "--every", "60s", timeout_s=POOL_TIMEOUT_S):
        parent.set("last-write", "before the warm fork")
        warm = sevfork("fork", name, "-n", str(count), data=True)
        parent.set("last-write", "after the warm fork, in the parent")
    check(f"all {count} were warm", all(child["was_warm"] for child in warm["children"]))
    for made in warm["children"]:
        child = connect(made["ports"][0]["address"])
        check(f"{made['name']} holds all {KEYS} keys", holds_every_key(child))
        check(
            f"{made['name']} has the last write before this fork and none after it",
            child.get("last-write") == b"before the warm fork",
        )
    cold_s, warm_s = (max(each["ready_s"] for each in fork["children"]) for fork in (cold, warm))
    console.print(
        f"   {count} children ready after {cold_s:.1f} s cold and {warm_s:.1f} s warm, "
        f"{warm_s / cold_s:.2f} of it; sealed {cold['sealed_bytes'] / 2**20:.0f} and "
        f"{warm['sealed_bytes'] / 2**20:.0f} MiB; pause {warm['pause_ms']:.0f} ms"
    )


def report(fork: dict[str, Any], longest_ms: float) -> None:
    console.print(
        f"   pause of the parent: {fork['pause_ms']:.0f} ms in the guest; "
        f"the client's longest wait: {longest_ms:.0f} ms"
    )
    table = Table("child", "address", "ready after", title=f"fork of {fork['parent']}")
    for child in fork["children"]:
        table.add_row(child["name"], child["ports"][0]["address"], f"{child['ready_s']:.1f} s")
    console.print(table)
    console.print(f"   {fork['technology_label']}; {fork['accelerator_label']}")


def clean_up(name: str) -> None:
    """Remove the parent and its children, also when the demo failed half-way."""
    listed = subprocess.run(
        [SEVFORK, "ls", "--json"], stdout=subprocess.PIPE, check=False, timeout=120
    )
    vms = json.loads(listed.stdout)["vms"] if listed.returncode == 0 else []
    mine = [vm["name"] for vm in vms if vm["name"] == name or vm["name"].startswith(f"{name}-fork")]
    if mine:
        sevfork("rm", *mine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--count", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="leave the VMs running")
    arguments = parser.parse_args()
    name = f"demo-{os.getpid()}"
    started = time.monotonic()
    try:
        demo(arguments.count, name)
    finally:
        if not arguments.keep:
            say("cleaning up")
            clean_up(name)
    say(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
