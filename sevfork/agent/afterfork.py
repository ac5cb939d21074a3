"""The after-fork hooks: run inside a child before anything may leave it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from sevfork.agent.container.adopt import Ended
from sevfork.agent.engine import Generation
from sevfork.agent.workload import Hook
from sevfork.errors import RefusedByGuest, TimedOut

log = logging.getLogger(__name__)


class Runner(Protocol):
    """Runs a command inside the container; raises TimedOut."""

    def exec(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, *, timeout_s: float
    ) -> Ended: ...

    def printed(self) -> int: ...

    def last_words(self, since: int = 0) -> str: ...


def run_hooks(runner: Runner, hooks: Sequence[Hook], generation: Generation) -> None:
    """Run the hooks in order, each within its time. Raise RefusedByGuest at the first that fails.

    What a hook prints is the workload's, and in no message: those reach the serial log.
    """
    environment = {
        "SEVFORK_GENERATION": str(generation.counter),
        "SEVFORK_UNIQUE_ID": generation.unique_id.hex(),
    }
    for hook in hooks:
        started = time.monotonic()
        _run(runner, hook, environment)
        log.info("after-fork hook '%s': %.1f s", hook.command[0], time.monotonic() - started)


def _run(runner: Runner, hook: Hook, environment: Mapping[str, str]) -> None:
    name, before = hook.command[0], runner.printed()
    try:
        finished = runner.exec(hook.command, environment, timeout_s=hook.timeout_s)
    except TimedOut as exc:
        raise RefusedByGuest(
            f"the after-fork hook '{name}' did not finish in {hook.timeout_s:g} s",
            printed=runner.last_words(before),
        ) from exc
    if finished.returncode:
        raise RefusedByGuest(
            f"the after-fork hook '{name}' {finished}",
            hint="the child was not released; run the command in the parent's workload to see why",
            printed=runner.last_words(before),
        )
