"""What may be said of an exception that nobody expected, on a console that the host reads.

Its message may hold names of the workload's files, or what stands in them. So the log says of what
type it was and where it came from, and never what it says of itself.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback

log = logging.getLogger(__name__)


def place_of(error: BaseException | None) -> str:
    """The exception's type and the innermost line of sevfork's own that it came through."""
    place = "an unknown place"
    for frame, line in traceback.walk_tb(error.__traceback__ if error else None):
        module = getattr(frame.f_globals.get("__spec__"), "name", "")
        if module.startswith("sevfork."):
            place = f"{module.replace('.', '/')}.py:{line}"
    return f"{type(error).__name__} at {place}"


def hide_messages() -> None:
    """Nothing that Python prints by itself, in any thread, is more than that."""
    sys.excepthook = lambda kind, error, trace: log.critical("the agent ends: %s", place_of(error))
    threading.excepthook = lambda gone: log.error("a thread ended: %s", place_of(gone.exc_value))
    sys.unraisablehook = lambda lost: log.error("not handled: %s", place_of(lost.exc_value))
    logging.raiseExceptions = False
