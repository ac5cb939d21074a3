"""An exception that nobody expected says what it is and where it was, never what it is about."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
from pathlib import Path

import pytest

from sevfork.agent.container.container import Container
from sevfork.agent.container.tree import parent_of
from sevfork.agent.unexpected import hide_messages, place_of
from sevfork.agent.workload import Ready, Workload

PRIVATE = "customers.db"


def failed_in(root: Path) -> OSError:
    """What the agent's own code raises about a file of the workload."""
    with pytest.raises(OSError, match=PRIVATE) as caught, parent_of(root / PRIVATE, "file"):
        pass
    return caught.value


def test_the_type_and_the_place_are_said_and_the_message_is_not(tmp_path: Path) -> None:
    said = place_of(failed_in(tmp_path))
    assert said.startswith("FileNotFoundError at sevfork/agent/container/tree.py:")
    assert PRIVATE not in said


def test_the_place_is_sevforks_own_although_a_library_raised(tmp_path: Path) -> None:
    container = Container(Workload(name="w", command=("/w",), ready=Ready(tcp=1)), tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        _ = container.pid
    assert place_of(caught.value).startswith(
        "FileNotFoundError at sevfork/agent/container/container.py:"
    )


def test_an_exception_from_nowhere_is_still_named() -> None:
    assert place_of(ValueError(PRIVATE)) == "ValueError at an unknown place"


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in (
        (sys, "excepthook"),
        (sys, "unraisablehook"),
        (threading, "excepthook"),
        (logging, "raiseExceptions"),
    ):
        monkeypatch.setattr(place, name, getattr(place, name))
    hide_messages()


@pytest.mark.usefixtures("quiet")
def test_what_ends_the_agent_or_a_thread_is_not_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    class Unraisable:
        def __del__(self) -> None:
            os.stat(tmp_path / PRIVATE)  # noqa: PTH116

    error = failed_in(tmp_path)
    sys.excepthook(type(error), error, error.__traceback__)
    thread = threading.Thread(target=lambda: (tmp_path / PRIVATE).read_text())
    thread.start()
    thread.join()
    Unraisable()
    gc.collect()
    printed = capfd.readouterr()
    assert PRIVATE not in caplog.text + printed.out + printed.err
    assert [record.message.split(" at ")[0] for record in caplog.records] == [
        "the agent ends: FileNotFoundError",
        "a thread ended: FileNotFoundError",
        "not handled: FileNotFoundError",
    ]
