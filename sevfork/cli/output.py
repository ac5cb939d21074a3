"""The one place that prints: stdout is data, stderr is everything else.

What is printed may come from evidence, a guest, libvirt or a file: it is cleaned here, and nowhere
else, whichever way it is printed. A value can neither drive the terminal nor begin a line of its
own, so that `grep ^PASSED` finds sevfork's verdict only. In JSON strings are escaped.

Progress is drawn only on a terminal. rich honours NO_COLOR and TERM=dumb by itself.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from sevfork.errors import SevforkError
from sevfork.lifecycle.progress import Watcher, logged, unwatched

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

SCHEMA = 1


class Output:
    """Prints for one command; ``quiet`` leaves data and errors."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._decoder, self._error_decoder = (
            codecs.getincrementaldecoder("utf-8")("replace") for _ in range(2)
        )

    def json(self, document: Mapping[str, object]) -> None:
        """One document on stdout, with the schema's version first (docs/json.md)."""
        self.data(
            *json.dumps({"schema": SCHEMA, **document}, indent=2, allow_nan=False).split("\n")
        )

    def data(self, *lines: str) -> None:
        """Lines on stdout; one of them stays one, whatever is in it."""
        sys.stdout.write("".join(f"{one_line(line).rstrip()}\n" for line in lines))
        sys.stdout.flush()

    def text(self, text: str) -> None:
        """Text of several lines on stdout, which nobody else can have put line breaks into."""
        self.data(*text.rstrip("\n").split("\n"))

    def foreign(self, data: bytes) -> None:
        """A program's own output: as it is; on a terminal without what would drive that."""
        _pass_on(sys.stdout, data, self._decoder)

    def foreign_error(self, data: bytes) -> None:
        """The same for what it says on standard error."""
        _pass_on(sys.stderr, data, self._error_decoder)

    def chain(self, lines: Sequence[str]) -> None:
        """Lines on stdout, each drawn as the only branch of the one before it."""
        first, *rest = lines
        self.data(first, *(f"{'   ' * depth}└─ {line}" for depth, line in enumerate(rest)))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table on stdout; off a terminal plain columns, nothing cut off or wrapped."""
        rows = [[one_line(cell) for cell in row] for row in rows]
        if not sys.stdout.isatty():
            self.data(*_plain([columns, *rows]))
            return
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, box=box.SIMPLE_HEAD)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        _console(sys.stdout).print(table)

    def note(self, text: str) -> None:
        """Something worth knowing, unless quiet was asked for."""
        if not self.quiet:
            self._stderr(text)

    def warn(self, text: str) -> None:
        self._stderr(f"warning: {text}")

    def error(self, error: SevforkError) -> None:
        self._stderr(f"error: {error.message}")
        for line in error.printed.splitlines():
            self._stderr(f"  | {line}")
        if error.hint:
            self._stderr(f"hint: {error.hint}")

    @contextlib.contextmanager
    def watching(self) -> Iterator[Watcher]:
        """A Watcher that draws a line for each VM, on a terminal; --debug tells each phase."""
        console = _console(sys.stderr)
        if self.quiet or not console.is_terminal:
            yield logged(unwatched)
            return
        with _progress(console) as bars:
            yield logged(Lines(bars))

    @staticmethod
    def _stderr(text: str) -> None:
        sys.stderr.write(indented(text) + "\n")
        sys.stderr.flush()


class Lines:
    """One line a VM: its name, its phase, a bar where the amount is known, the time."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __call__(self, who: str, phase: str, done: int = 0, total: int = 0) -> None:
        who, phase = one_line(who), one_line(phase)
        with self._lock:
            if who not in self._tasks:
                self._tasks[who] = self._bars.add_task(who, total=None, phase="")
            ended = phase in ("ready", "removed", "captured")
            self._bars.update(
                self._tasks[who],
                phase=phase,
                completed=1 if ended else done,
                total=1 if ended else total or None,
            )


def _progress(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[phase]}", markup=False),
        console=console,
    )


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False)


def _pass_on(stream: TextIO, data: bytes, decoder: codecs.IncrementalDecoder) -> None:
    if stream.isatty():
        stream.write(harmless(decoder.decode(data)))
    else:
        stream.flush()
        stream.buffer.write(data)
    stream.flush()


def error_document(error: SevforkError) -> dict[str, object]:
    """An error as it stands in JSON output (docs/json.md)."""
    return {
        "message": error.message,
        "hint": error.hint,
        "exit_code": error.exit_code,
        "printed": error.printed,
    }


def one_line(text: str) -> str:
    """Without line breaks and without what drives a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def harmless(text: str) -> str:
    """With its lines and tabs, and without whatever else drives a terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else " " for char in text)


def indented(text: str) -> str:
    """A message of one or more lines, all but the first moved in: none looks like our own."""
    return "\n  ".join(one_line(line) for line in text.rstrip("\n").split("\n"))


def _plain(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
