"""Why CRIU refused, in words: its log's error lines, and what a user can do about each.

The words go to the host. CRIU's own name the workload's files and sometimes quote them, so they
stay here: a refusal that is not known is told by the place in CRIU's source that it comes from.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from msgspec import Struct

_ERROR = re.compile(r"Error \((?:[\w-]+/)*([\w-]+\.[ch]:\d+)\): ?(.*)")
# What CRIU finds missing when it looks at what the kernel can do, which is no failure (measured).
_HARMLESS = re.compile(
    r"tun\.c|libnetlink\.c|Unable to create a veth pair|No parent image found"
    r"|Can't setup RLIMIT_NOFILE for self"
)


class Refusal(Struct, frozen=True):
    """A reason and an advice, both plain sentences without a full stop."""

    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.advice}"


class _Known(Struct, frozen=True):
    """A refusal, and what gives it away: an error line, or a kernel object that is held."""

    refusal: Refusal
    error: re.Pattern[str]
    held: frozenset[str]


def _known(reason: str, advice: str, error: str, *held: str) -> _Known:
    return _Known(Refusal(reason, advice), re.compile(error), frozenset(held))


TOO_LITTLE_MEMORY = Refusal(
    "the guest has too little memory for a capture",
    "give the VM more memory: a fork needs 34 MiB and a 64th of what the workload holds",
)
# The lines are from the sources of criu 4.2. The first that matches counts.
_KNOWN = (
    _known(  # CRIU only says "send_fds failed": such a descriptor cannot be sent over a socket
        "the workload uses io_uring, which CRIU cannot capture",
        "take 'io_uring = true' out of the workload file: most programs do without it",
        r"io_uring",
        "io_uring",
    ),
    _known(
        "the workload holds a kernel object that CRIU cannot capture",
        "turn off the feature that uses it: userfaultfd, perf, BPF, fanotify, KVM, Landlock",
        r"unknown anon|fanotify",
        *("userfaultfd", "perf_event", "bpf-map", "bpf-prog", "bpf_link", "fanotify"),
        *("kvm-vm", "kvm-vcpu:0", "landlock-ruleset", "seccomp notify", "dma-buf"),
    ),
    _known(
        "the workload watches a file with inotify that CRIU cannot find on an overlay",
        "turn off its file watching, or name the directory in 'writable' of the workload file",
        r"fsnotify|Can't dump that handle|irmap",
    ),
    _known(
        "the workload is connected to a Unix socket of a process outside its container",
        "close that connection",
        r"External socket is used|half of stream unix connection|name-less external socket",
    ),
    _known(
        "the workload uses a kind of socket that CRIU cannot capture",
        "use TCP, UDP or Unix sockets",
        r"Unsupported (proto|socket|type)|Unknown socket|Can't dump corked|socket family",
    ),
    _known(
        "the workload has a large file open that was deleted",
        "let it close the file, or keep the file's name",
        r"Can't dump ghost file",
    ),
    _known(
        "a process of the workload is being traced or has stopped threads",
        "end the debugger or tracer inside the container",
        r"stopped threads|is traced|Unseizable|[Uu]nable to (seize|interrupt)",
    ),
    _known(
        "the workload uses a terminal or a session from outside its container",
        "run it without a terminal",
        r"session leader .*outside|tty: ",
    ),
    _known(
        "the workload has a device open that CRIU cannot capture",
        "run it without that device",
        r"Can't dump file \d+ of that type .*chr",
    ),
    _known(
        "the workload maps a kind of memory that CRIU cannot capture",
        "turn off huge pages or the feature that maps it",
        r"non-regular mapping|Unsupported mapping|hugetlb|uprobes|madv_guard",
    ),
    _Known(
        TOO_LITTLE_MEMORY,
        re.compile(r"No space left on device|Cannot allocate memory"),
        frozenset(),
    ),
)


def explain(log: str, held: Collection[str] = ()) -> Refusal:
    """The first known reason, in what the workload holds and in a CRIU log, else where it failed.

    ``held`` names kernel objects, as after ``anon_inode:`` in ``/proc/PID/fd``: CRIU's own message
    about some is no help.
    """
    errors = [message for _, message in error_lines(log)]
    for known in _KNOWN:
        if known.held & set(held) or any(known.error.search(line) for line in errors):
            return known.refusal
    return Refusal(first_place(log), "see that place in the source of CRIU 4.2")


def first_place(log: str) -> str:
    """Where CRIU first failed, by its log, in words that hold nothing of the workload's."""
    places = [place for place, _ in error_lines(log)]
    return f"CRIU refused at {places[0]}" if places else "CRIU refused without saying where"


def error_lines(log: str) -> list[tuple[str, str]]:
    """Place and message of a log's error lines, but for those of CRIU's look at the kernel."""
    matches = [match for match in map(_ERROR.search, log.split("\n")) if match]
    return [(match[1], match[2].strip()) for match in matches if not _HARMLESS.search(match[0])]
