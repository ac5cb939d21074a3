"""CRIU's errors in words; the lines are from its real logs (4.2.1)."""

from __future__ import annotations

import pytest

from sevfork.agent.criu.refusal import explain, first_place

NOISE = """\
(00.129235) Error (criu/tun.c:85): tun: Unable to create tun: No such file or directory
(00.222412) Error (criu/libnetlink.c:54): -95 reported by netlink: Operation not supported
(00.222663) Error (criu/net.c:4151): net: Unable to create a veth pair: -95
(00.233964) Warn  (criu/net.c:4177): net: NSID isn't reported for network links
"""


def line(message: str, place: str = "criu/files.c:555") -> str:
    return f"{NOISE}(00.300000) Error ({place}): {message}\n"


def test_io_uring_is_named_although_criu_does_not() -> None:
    refusal = explain(line("send_fds failed (-22)"), {"eventpoll", "io_uring"})
    assert "io_uring" in refusal.reason
    assert "io_uring = true" in refusal.advice


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ("fsnotify: \tCan't dump that handle", "inotify"),
        ("Can't dump ghost file /tmp/a of 5000000 size, increase limit", "deleted"),
        ("sk unix: External socket is used. Consider using --ext-unix-sk", "Unix socket"),
        ("inet: Unsupported proto 132 for socket 5d1", "kind of socket"),
        ("A session leader of 55(3) is outside of its pid namespace", "terminal"),
        ("Can't handle non-regular mapping on 55's map 7f00", "memory"),
        ("Individually stopped threads not supported", "traced"),
        ("Failed writing pages: No space left on device", "memory"),
    ],
)
def test_known_errors_are_explained(message: str, word: str) -> None:
    assert word in explain(line(message)).reason


def test_an_object_that_criu_can_capture_is_not_blamed() -> None:
    refusal = explain(line("something new"), {"eventpoll", "inotify", "eventfd", "timerfd"})
    assert refusal.reason == "CRIU refused at files.c:555"


def test_what_criu_finds_missing_in_the_kernel_is_not_blamed() -> None:
    assert explain(NOISE).reason == "CRIU refused without saying where"


@pytest.mark.parametrize(
    "message",
    [
        "Can't open file /srv/customers.db on restore",
        "customers.db",
        "name with\x0c\x85\u2028(customers.db): Error",
    ],
)
def test_what_criu_says_of_the_workloads_files_stays_in_the_guest(message: str) -> None:
    log = line(message, "criu/files-reg.c:1234")
    assert first_place(log) == "CRIU refused at files-reg.c:1234"
    assert "customers" not in str(explain(log))


def test_what_looks_like_a_place_but_is_none_is_not_passed_on() -> None:
    assert "customers" not in str(explain("(00.1) Error (/srv/customers.db): x\n"))
