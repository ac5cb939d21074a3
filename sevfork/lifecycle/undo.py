"""What takes back, in reverse order, what was done: one small object that all use cases share.

An act registers its undo *before* it is done, so that whatever fails, or is interrupted, finds it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, Self

from sevfork.errors import SevforkError

log = logging.getLogger(__name__)

_P = ParamSpec("_P")


class Undo:
    """``with Undo() as undo``: at the end of the block everything that was registered is called.

    ``at_end`` and ``best_effort`` are called however the block ends, ``on_failure`` only when it,
    or something that was registered later, raised.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> bool | None:
        return self._stack.__exit__(kind, error, where)

    def at_end(self, act: Callable[_P, object], *args: _P.args, **options: _P.kwargs) -> None:
        """What fails here is the outcome."""
        self._stack.callback(act, *args, **options)

    def on_failure(self, act: Callable[_P, object], *args: _P.args, **options: _P.kwargs) -> None:
        """What fails here replaces the first failure: something is left that the user must know."""

        def leave(kind: type[BaseException] | None, *_: object) -> None:
            if kind is not None:
                act(*args, **options)

        self._stack.push(leave)

    def best_effort(self, act: Callable[_P, object], *args: _P.args, **options: _P.kwargs) -> None:
        """What fails here never replaces the outcome: the next command has a try (``reap``)."""

        def attempt() -> None:
            try:
                act(*args, **options)
            except SevforkError as exc:
                log.warning("left to the next command: %s", exc.message)

        self._stack.callback(attempt)
