"""The guests of one run, driven as a user would: by the ``sevfork`` command."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from rich.console import Console

from scripts import client
from scripts.client import SEVFORK, LongestWait

IMAGE, WORKLOAD = "build/images/redis", "firmware/workloads/redis.toml"
PAGE_BYTES = 4096
VALUE_BYTES = 2**20
_TIMEOUT_S = 900

console = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Timed:
    """What a command printed as JSON, how long it took, and its debug log."""

    data: Any
    taken_s: float
    log: list[str] = field(repr=False)


def sevfork(*words: str) -> Timed:
    """Run it with --json and --debug; a failure shows its log and ends the run."""
    return run([str(SEVFORK), *words])


def run(
    argv: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Timed:
    """The same with a ``sevfork`` that need not be this one; ``env`` is added to its own."""
    console.print(f"[dim]$ sevfork {' '.join(argv[1:])}[/dim]", soft_wrap=True)
    began = time.monotonic()
    done = subprocess.run(
        [*argv, "--json", "--debug"],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)} ended with {done.returncode}\n{done.stderr}")
    return Timed(json.loads(done.stdout), time.monotonic() - began, done.stderr.splitlines())


def values(mib: int) -> dict[str, bytes]:
    """Incompressible, and no two alike."""
    count = mib * 2**20 // VALUE_BYTES
    chosen = random.Random(mib)  # noqa: S311  # test data, not a secret
    return {f"key:{number}": chosen.randbytes(VALUE_BYTES) for number in range(count)}


def connect(vm: dict[str, Any]) -> redis.Redis:
    host, port = vm["ports"][0]["address"].rsplit(":", 1)
    return redis.Redis(host, int(port), socket_timeout=60, single_connection_client=True)


def load(client: redis.Redis, data: dict[str, bytes]) -> None:
    for name, value in data.items():
        client.set(name, value)


def dirty(client: redis.Redis, data: dict[str, bytes], percent: int) -> int:
    """Write one byte of so many of the pages, spread evenly; returns the bytes of those pages.

    In place, as SETRANGE does. Not of the last value, which ``answers`` asks for.
    """
    written = 0
    for name in list(data)[:-1]:
        pipeline = client.pipeline(transaction=False)
        for page in range(VALUE_BYTES // PAGE_BYTES):
            if page * percent % 100 < percent:
                pipeline.setrange(name, page * PAGE_BYTES, b"x")
                written += PAGE_BYTES
        pipeline.execute()
    return written


def answers(vm: dict[str, Any], data: dict[str, bytes]) -> None:
    """A child's first right answer; raises SystemExit for a wrong one."""
    last = next(reversed(data))
    if connect(vm).get(last) != data[last]:
        raise SystemExit(f"'{vm['name']}' does not hold its parent's state")


def resident_mib(vm: dict[str, Any]) -> float:
    """What the host has given to a VM's QEMU."""
    found = subprocess.run(
        ["pgrep", "-f", f"guest={vm['name']},"], capture_output=True, text=True, check=True
    )
    status = Path("/proc", found.stdout.split()[0], "status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@contextmanager
def waiting(vm: dict[str, Any]) -> Iterator[LongestWait]:
    """A client that counts up meanwhile; SystemExit if it broke, since its wait is none then."""
    with LongestWait(connect(vm)) as other:
        yield other
    if other.error is not None:
        raise SystemExit(f"a client of '{vm['name']}' broke: {other.error}")


@contextmanager
def pool(name: str, size: int) -> Iterator[None]:
    """A pool that is full, and is not updated by itself meanwhile."""
    console.print(f"[dim]$ sevfork pool {name} --size {size} &[/dim]")
    with client.pool(name, size, "--every", "10m", "--max-lag", "30m", timeout_s=_TIMEOUT_S):
        yield


def listed() -> list[dict[str, Any]]:
    done = subprocess.run(
        [SEVFORK, "ls", "--json"], stdout=subprocess.PIPE, check=False, timeout=120
    )
    vms: list[dict[str, Any]] = json.loads(done.stdout)["vms"] if done.returncode == 0 else []
    return vms


def remove(name: str, *, children_only: bool = False) -> None:
    """A parent and whatever came of it."""
    mine = [vm["name"] for vm in listed() if vm["name"].startswith(f"{name}-fork")]
    if not children_only:
        mine += [vm["name"] for vm in listed() if vm["name"] == name]
    if mine:
        subprocess.run([SEVFORK, "-q", "rm", *mine], check=False, timeout=_TIMEOUT_S)
