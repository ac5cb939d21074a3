"""Which system calls a workload has, and which it does without."""

from __future__ import annotations

from typing import Any

import pytest

from sevfork.agent.container.seccomp import profile


def rules(*, io_uring: bool = False) -> dict[str, list[dict[str, Any]]]:
    """The rules of each system call."""
    calls = profile(io_uring=io_uring)["syscalls"]
    assert isinstance(calls, list)
    names = {name for rule in calls for name in rule["names"]}
    return {name: [rule for rule in calls if name in rule["names"]] for name in names}


def test_what_is_not_named_does_not_exist() -> None:
    made = profile(io_uring=False)
    assert (made["defaultAction"], made["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    assert made["architectures"] == ["SCMP_ARCH_X86_64"]


@pytest.mark.parametrize(
    "call",
    [
        *("io_uring_setup", "io_uring_enter", "io_uring_register"),
        *("landlock_create_ruleset", "memfd_secret", "pkey_alloc", "mseal", "clone3"),
        *("set_mempolicy", "mbind"),
    ],
)
def test_what_criu_cannot_carry_is_not_named(call: str) -> None:
    assert call not in rules()


@pytest.mark.parametrize(
    "call",
    [
        *("keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd", "mount"),
        *("unshare", "setns", "init_module", "kexec_load", "open_by_handle_at", "syslog"),
    ],
)
def test_what_takes_a_capability_is_forbidden(call: str) -> None:
    assert [(rule["action"], rule.get("errnoRet")) for rule in rules()[call]] == [
        ("SCMP_ACT_ERRNO", 1)
    ]


def test_io_uring_is_there_for_a_workload_that_asks_for_it() -> None:
    for call in ("io_uring_setup", "io_uring_enter", "io_uring_register"):
        assert rules(io_uring=True)[call][0]["action"] == "SCMP_ACT_ALLOW"


@pytest.mark.parametrize("call", ["execve", "futex", "epoll_wait", "mmap", "rseq", "io_submit"])
def test_what_every_program_needs_is_allowed(call: str) -> None:
    assert [rule["action"] for rule in rules()[call]] == ["SCMP_ACT_ALLOW"]


def test_no_call_has_two_unconditional_rules() -> None:
    for call, of_call in rules(io_uring=True).items():
        assert len(of_call) == 1 or all(rule["args"] for rule in of_call), call


def test_a_socket_to_the_host_or_of_packets_is_of_no_known_family() -> None:
    allowed, refused = rules()["socket"]
    assert allowed["args"] == [{"index": 0, "value": 16, "op": "SCMP_CMP_LE"}]
    assert refused["args"] == [{"index": 0, "value": 16, "op": "SCMP_CMP_GT"}]
    assert refused["errnoRet"] == 97


def test_a_process_is_cloned_into_no_new_namespace() -> None:
    [rule] = rules()["clone"]
    assert rule["args"] == [{"index": 0, "value": 0x7E020000, "op": "SCMP_CMP_MASKED_EQ"}]
