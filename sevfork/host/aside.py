"""A call that may block where neither a deadline nor Ctrl-C reaches it: libvirt's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

_Answer = TypeVar("_Answer")


class Aside:
    """The call on a daemon thread, so that waiting for it has a deadline and can be interrupted."""

    def __init__(self, call: Callable[[], None], name: str) -> None:
        self.error: Exception | None = None
        self._call = call
        self._finished = threading.Event()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended, in one way or the other (``error``), within that time."""
        return self._finished.wait(timeout_s)

    def _run(self) -> None:
        try:
            self._call()
        except Exception as exc:
            self.error = exc
        finally:
            self._finished.set()


def within(timeout_s: float, call: Callable[[], _Answer], name: str) -> _Answer:
    """What the call gives or raises; TimeoutError where it goes on for longer."""
    given: list[_Answer] = []
    aside = Aside(lambda: given.append(call()), name)
    if not aside.wait(timeout_s):
        raise TimeoutError
    if aside.error:
        raise aside.error
    return given[0]
