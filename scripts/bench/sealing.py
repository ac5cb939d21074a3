"""Seal and unseal beside ``openssl speed``, natively and in a guest: part e of the table."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scripts.bench import guests, seal_speed
from scripts.bench.figures import Row, missing
from scripts.bench.guests import sevfork

_TMPFS = "/dev/shm"  # noqa: S108  # with a random name
_NATIVE_MIB = 256
_HERE = Path(__file__).parent
_WORKLOAD = "seal-speed"
_IMAGE = f"build/images/{_WORKLOAD}"
_TIMEOUT_S = 600


def natively() -> Iterator[Row]:
    return rows(seal_speed.report(_TMPFS, _NATIVE_MIB), "natively")


def in_a_guest(name: str, scratch: Path) -> list[Row]:
    """A guest that does nothing else; ``scratch`` is for what its image is made of.

    Where that fails the table says why, and the rest is measured.
    """
    try:
        return list(rows(_in_a_guest(name, scratch), "in a guest"))
    except (SystemExit, OSError, ValueError) as exc:
        return [missing("e", "seal and unseal in a guest", str(exc).partition("\n")[0])]


def _in_a_guest(name: str, scratch: Path) -> dict[str, Any]:
    beside = scratch / _WORKLOAD
    beside.mkdir(parents=True, exist_ok=True)
    for source in (_HERE / "workloads" / f"{_WORKLOAD}.toml", _HERE / "seal_speed.py"):
        shutil.copy(source, beside)
    shutil.copy(shutil.which("openssl") or "openssl", beside / "openssl")
    sevfork("guest", "build", "-o", _IMAGE, "--workload", str(beside / f"{_WORKLOAD}.toml"))
    try:
        vm = sevfork("up", name, "--image", _IMAGE, "--publish", "8080").data["vm"]
        return _asked(vm)
    finally:
        guests.remove(name)


def _asked(vm: Mapping[str, Any]) -> dict[str, Any]:
    host, port = vm["ports"][0]["address"].rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=_TIMEOUT_S) as connection:
        connection.sendall(b"?")
        with connection.makefile() as answer:
            report: dict[str, Any] = json.loads(answer.readline())
    return report


def rows(report: Mapping[str, Any], where: str) -> Iterator[Row]:
    """As times, so that openssl's rate is 1 / 0.8 of sevfork's at most."""
    threads, reference = report["threads"], report["openssl"]
    for what, rate in report["sevfork"].items():
        yield Row(
            part="e",
            what=f"{what}, {where}, {threads} threads: 100 MiB",
            value=100 / rate * 1000,
            unit="ms",
            peer=f"openssl speed -multi {threads}, {where}",
            peer_value=100 / reference * 1000,
            most=1.25 if where == "natively" else None,
            note=f"{rate:.0f} and {reference:.0f} MiB/s",
        )
