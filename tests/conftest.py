"""What all tests share: what did not run is said where nobody can miss it."""

from __future__ import annotations

import gc
from collections import Counter

import pytest

EXHAUSTIVE = "exhaustive: run with -m slow"


def pytest_configure() -> None:
    """Tests make much that lives long, and few cycles: look for these more rarely."""
    gc.set_threshold(50_000, 20, 50)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The exhaustive variants run only when they are asked for."""
    if "slow" in config.option.markexpr:
        return
    skip = pytest.mark.skip(reason=EXHAUSTIVE)
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Thousands of collected tests stay until the end: no look at them frees anything."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A suite that skips what it lacks looks as green as one that ran: name what is missing."""
    skipped = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", []))
    skipped.pop(EXHAUSTIVE, None)
    if not skipped:
        return
    terminalreporter.section("NOT TESTED", sep="!", red=True, bold=True)
    for reason, count in skipped.most_common():
        terminalreporter.write_line(f"{count:4} tests did not run: {reason}", red=True, bold=True)


def _reason(report: pytest.TestReport) -> str:
    assert isinstance(report.longrepr, tuple)
    return report.longrepr[2].removeprefix("Skipped: ")
