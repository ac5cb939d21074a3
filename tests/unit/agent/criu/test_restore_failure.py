"""A failed restore is told in CRIU's own words and an errno's, and in none of the workload's."""

from __future__ import annotations

import pytest

from sevfork.agent.criu.restore_failure import explain_restore

CUSTOMERS = "srv/customers-of-acme.db"


def log(place: str, message: str) -> str:
    return (
        f"(00.01) Error (criu/{place}): {message}\n(00.02) Error (criu/x.c:1): Restoring FAILED.\n"
    )


@pytest.mark.parametrize(
    ("place", "message", "reason", "advice"),
    [
        (
            "mem.c:964",
            "Unable to map ANON_VMA: Cannot allocate memory",
            "CRIU failed at mem.c:964 (Unable to map ANON_VMA: Cannot allocate memory)",
            "more memory",
        ),
        (
            "pie/restorer.c:1307",
            "Can't create posix timer - 0",
            "CRIU failed at restorer.c:1307 (Can't create posix timer)",
            "timerfd",
        ),
        (
            "files-reg.c:2280",
            f"Can't open file {CUSTOMERS} on restore: Permission denied",
            "CRIU failed at files-reg.c:2280 (Can't open file: Permission denied)",
            "source of CRIU",
        ),
        (
            "mount.c:5",
            f"mnt: Unable to open {CUSTOMERS}: No such file or directory",
            "CRIU failed at mount.c:5 (Unable to open: No such file or directory)",
            "source of CRIU",
        ),
        (
            "new.c:1",
            f"Something new about {CUSTOMERS}",
            "CRIU failed at new.c:1",
            "source of CRIU",
        ),
        (
            "new.c:2",
            f"{CUSTOMERS}: No space left on device",
            "CRIU failed at new.c:2 (No space left on device)",
            "more memory",
        ),
    ],
)
def test_the_first_error_is_told(place: str, message: str, reason: str, advice: str) -> None:
    told = explain_restore(log(place, message))
    assert told.reason == reason
    assert advice in told.advice


@pytest.mark.parametrize("text", ["", "nothing of interest\n"])
def test_a_log_that_says_nothing_is_told_as_that(text: str) -> None:
    assert "does not say why" in explain_restore(text).reason


@pytest.mark.parametrize("begin", ["Unable to open", "File", "Can't bind socket to", "mnt: Can't"])
def test_what_follows_a_constant_text_is_not_told(begin: str) -> None:
    told = explain_restore(log("a.c:1", f"{begin} {CUSTOMERS} has bad size 5"))
    assert "customers" not in str(told)
