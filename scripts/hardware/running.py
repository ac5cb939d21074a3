"""Steps are run one after the other, by whatever can run a command; what came of each is kept."""

from __future__ import annotations

import json
import shlex
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from scripts.hardware.steps import Step
from sevfork.errors import SevforkError
from sevfork.process import run, spawn

_KEPT_LINES = 60
_NEVER_ENDED = 124  # as timeout(1) has it


@dataclass(frozen=True)
class Ran:
    """What a command printed, and how it ended."""

    exit_code: int
    stdout: str
    stderr: str


class Runner(Protocol):
    """Whatever runs ``sevfork``."""

    def run(self, words: Sequence[str], timeout_s: float) -> Ran:
        """To its end."""

    def keep(
        self, words: Sequence[str], until: str, timeout_s: float
    ) -> AbstractContextManager[Ran]:
        """In the background, from when it has said ``until``; exit code 0 if it has."""


class Status(Enum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Outcome:
    """``why``: it failed or was skipped; ``data``: what it printed with --json."""

    step: str
    command: str
    status: Status
    seconds: float = 0.0
    why: str = ""
    data: Any = None
    stderr: str = ""

    @property
    def passed(self) -> bool:
        return self.status is Status.PASSED


def run_steps(
    steps: Iterable[Step], fields: Mapping[str, str], runner: Runner, verbs: Iterable[str]
) -> Iterator[Outcome]:
    """Each outcome as soon as it is there. ``verbs``: those that this version of sevfork has."""
    known, passed = frozenset(verbs), set[str]()
    with ExitStack() as kept:
        for step in steps:
            words = step.words(fields)
            outcome = _skipped(step, words, known, passed) or _run(step, words, runner, kept)
            if step.saves and outcome.passed:
                outcome = _saved(outcome, step, Path(fields["work"]) / step.saves)
            if outcome.passed:
                passed.add(step.name)
            yield outcome


def _saved(outcome: Outcome, step: Step, path: Path) -> Outcome:
    """What it printed is in the file; failed if it is not what the step takes it for."""
    try:
        path.write_text(step.edit(str(outcome.data), path.parent))
    except (OSError, SevforkError) as exc:
        return replace(outcome, status=Status.FAILED, why=f"'{path.name}' not written: {exc}")
    return outcome


def _lacks(words: Sequence[str], verbs: frozenset[str]) -> str | None:
    """The verb that the words begin with, of one word or of two, if it is not one of these."""
    of_group = any(each.startswith(f"{words[0]} ") for each in verbs)
    verb = " ".join(words[: 1 + of_group])
    return None if verb in verbs else verb


def _skipped(
    step: Step, words: Sequence[str], verbs: frozenset[str], passed: set[str]
) -> Outcome | None:
    missing = [name for name in step.after if name not in passed]
    lacking = _lacks(words, verbs)
    if lacking:
        why = f"this version has no 'sevfork {lacking}'"
    elif missing:
        why = f"'{missing[0]}' did not pass"
    else:
        return None
    return Outcome(step.name, shlex.join(words), Status.SKIPPED, why=why)


def _run(step: Step, words: Sequence[str], runner: Runner, kept: ExitStack) -> Outcome:
    started = time.monotonic()
    if step.until is None:
        ran = runner.run(words, step.timeout_s)
    else:
        ran = kept.enter_context(runner.keep(words, step.until, step.timeout_s))
    passed = ran.exit_code == step.exit_code
    return Outcome(
        step.name,
        shlex.join(words),
        Status.PASSED if passed else Status.FAILED,
        seconds=round(time.monotonic() - started, 2),
        why="" if passed else f"exit code {ran.exit_code}, wanted {step.exit_code}",
        data=_document(ran.stdout),
        stderr="\n".join(ran.stderr.splitlines()[-_KEPT_LINES:]),
    )


def _document(stdout: str) -> Any:
    """What --json printed; text as it is where it is no JSON."""
    with suppress(json.JSONDecodeError):
        return json.loads(stdout)
    return stdout or None


@dataclass(frozen=True)
class Sevfork:
    """The command itself."""

    program: Path

    def run(self, words: Sequence[str], timeout_s: float) -> Ran:
        try:
            done = run([self.program, *words], timeout_s=timeout_s, check=False)
        except SevforkError as exc:  # it is not there, or never ended
            return Ran(_NEVER_ENDED, "", exc.message)
        return Ran(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def keep(self, words: Sequence[str], until: str, timeout_s: float) -> Iterator[Ran]:
        with spawn([self.program, *words], stderr=subprocess.PIPE, grace_s=60) as child:
            stopper = threading.Timer(timeout_s, child.terminate)
            stopper.start()
            try:
                said, found = _read_until(child, until)
                yield Ran(0 if found else child.wait(60) or _NEVER_ENDED, "", said)
            finally:
                stopper.cancel()


def _read_until(child: subprocess.Popen[bytes], until: str) -> tuple[str, bool]:
    """What was said so far, and whether it is what was waited for; the rest is read by a thread."""
    stream = child.stderr
    if stream is None:
        raise AssertionError("the command was started without a pipe")
    said: list[str] = []
    for line in stream:
        said.append(line.decode(errors="replace"))
        if until in said[-1]:
            threading.Thread(target=stream.read, daemon=True).start()
            return "".join(said), True
    return "".join(said), False
