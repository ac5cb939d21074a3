"""The same cold fork by an earlier commit, in this run: what came of the work since.

The commit gets a work tree, an environment and a libvirtd of its own, and all three are gone
afterwards.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.bench import guests
from scripts.bench.figures import Row

_TIMEOUT_S = 900
_STATE = "SEVFORK_STATE_DIR"


@dataclass(frozen=True)
class Earlier:
    """A commit's work tree with its ``sevfork``; ``state`` is its libvirtd's directory."""

    commit: str
    tree: Path
    state: Path

    def sevfork(self, *words: str) -> Any:
        """What it prints as JSON; a failure ends the run with its log."""
        argv = [str(self.tree / ".venv/bin/sevfork"), *words]
        return guests.run(argv, cwd=self.tree, env={_STATE: str(self.state)}).data

    def fork_s(self, mib: int, memory: str) -> float:
        """From the command to the child's first right answer."""
        name, data = f"earlier-{os.getpid()}", guests.values(mib)
        self.sevfork("guest", "build", "-o", guests.IMAGE, "--workload", guests.WORKLOAD)
        try:
            words = ("--image", guests.IMAGE, "--publish", "6379", "--memory", memory)
            parent = self.sevfork("up", name, *words)["vm"]
            guests.load(guests.connect(parent), data)
            began = time.monotonic()
            (child,) = self.sevfork("fork", name)["children"]
            guests.answers(child, data)
            return time.monotonic() - began
        finally:
            self._remove(name)

    def _remove(self, name: str) -> None:
        names = [vm["name"] for vm in self.sevfork("ls")["vms"]]
        mine = [each for each in names if each == name or each.startswith(f"{name}-fork")]
        if mine:
            self.sevfork("rm", *mine)


@contextmanager
def checked_out(commit: str) -> Iterator[Earlier]:
    """A commit of this repository, ready to run."""
    # Short, since sockets lie in it; and not in /tmp, which is memory on Debian 13.
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/var/tmp") as place:  # noqa: S108
        tree, state = Path(place, "tree"), Path(place, "s")
        _run("git", "worktree", "add", "--quiet", "--detach", str(tree), commit)
        try:
            # libvirt-python is Debian's, as in scripts/venv.
            _run("/usr/bin/python3", "-m", "venv", "--system-site-packages", str(tree / ".venv"))
            _run(str(tree / ".venv/bin/pip"), "install", "-q", "-e", f"{tree}[host]")
            yield Earlier(commit, tree, state)
        finally:
            _end_libvirtd(state)
            _run("git", "worktree", "remove", "--force", str(tree))
            shutil.rmtree(state, ignore_errors=True)


def rows(commit: str, mib: int, memory: str, now_s: Mapping[str, float]) -> Iterator[Row]:
    """``now_s``: what a fork takes today, cold and warm, of a parent with as much data."""
    guests.console.print(f"[dim]preparing {commit}[/dim]")
    with checked_out(commit) as earlier:
        taken_s = earlier.fork_s(mib, memory)
    for kind, most in (("cold", 0.6), ("warm", 1 / 6)):
        what = f"{mib} MiB: first right answer, {kind}, against an earlier commit"
        yield Row("b", what, now_s[kind], "s", f"at {commit}", taken_s, round(most, 3))


def _end_libvirtd(state: Path) -> None:
    """The private one that the earlier commit started, by its own note of its number."""
    for note in state.rglob("*d.pid"):  # of libvirtd, and of virtlogd where it has one
        subprocess.run(["kill", note.read_text().strip()], check=False, timeout=20)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, timeout=_TIMEOUT_S)
