"""Why CRIU refused, in words: its log's error lines, and what a user can do about each."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ERROR = re.compile(r"Error \([^)]*\): ?(.*)")


@dataclass(frozen=True)
class Refusal:
    """A reason and an advice, both plain sentences without a full stop."""

    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.advice}"


@dataclass(frozen=True)
class _Known:
    pattern: re.Pattern[str]
    refusal: Refusal


def _known(pattern: str, reason: str, advice: str) -> _Known:
    return _Known(re.compile(pattern, re.IGNORECASE), Refusal(reason, advice))


# From criu 4.2's sources (files.c, proc_parse.c, fsnotify.c, sk-*.c, cr-dump.c, tty.c) and, where
# marked, from trying it. The first that matches any error line counts.
_KNOWN = (
    _known(  # tried
        r"io_uring",
        "the workload uses io_uring, which CRIU cannot capture",
        "tell it to use epoll instead (many programs have an option or a variable for that)",
    ),
    _known(
        r"fsnotify|inotify|irmap|Can't resolve handle|Handle 0x\S+ cannot be opened",
        "the workload watches a file with inotify, which CRIU cannot capture on an overlay",
        "turn off its automatic reloading or file watching",
    ),
    _known(
        r"fanotify",
        "the workload uses fanotify, which CRIU cannot capture",
        "turn off its file watching",
    ),
    _known(
        r"unknown anon.*\[(?P<what>[\w.-]+)\]|anon_inode:\[?(?P<kind>[\w.-]+)",
        "the workload holds a kernel object that CRIU cannot capture",
        "turn off the feature that uses it",
    ),
    _known(
        r"Unsupported socket (protocol|type|family)|Unsupported (packet )?socket|"
        r"unsupported.*AF_|Unknown socket",
        "the workload uses a kind of socket that CRIU cannot capture",
        "use TCP, UDP or Unix sockets",
    ),
    _known(
        r"External socket is used|Can't dump half of stream unix connection|unix: .*external",
        "the workload is connected to a Unix socket of a process outside its container",
        "close that connection",
    ),
    _known(
        r"Ghost file .* too big|can't dump ghost file",
        "the workload has a large file open that was deleted",
        "let it close the file, or keep the file's name",
    ),
    _known(
        r"is traced|ptrace|Unseizable|Can't seize",
        "a process of the workload is being traced",
        "end the debugger or tracer inside the container",
    ),
    _known(
        r"dump (of )?(that )?.*\b(chr|device)\b|Can't dump file .* \(chr",
        "the workload has a device open that CRIU cannot capture",
        "run it without that device",
    ),
    _known(
        r"A session leader .*is outside|tty|pts",
        "the workload uses a terminal from outside its container",
        "run it without a terminal",
    ),
    _known(
        r"locks? .*(unlinked|not supported)|file lock",
        "the workload holds a file lock that CRIU cannot capture",
        "see whether it can run without that lock",
    ),
    _known(
        r"(userfaultfd|uprobes|hugetlb|non-regular mapping|Unsupported mapping)",
        "the workload maps a kind of memory that CRIU cannot capture",
        "turn off huge pages or the feature that maps it",
    ),
    _known(
        r"No space left on device",
        "the guest has too little memory to hold a capture besides the workload",
        "give the VM more memory: a capture needs as much again as the workload holds",
    ),
)


def explain(log: str) -> Refusal:
    """The first known reason in a CRIU log, else its first error line."""
    errors = [match[1].strip() for match in map(_ERROR.search, log.splitlines()) if match]
    for known in _KNOWN:
        if any(known.pattern.search(error) for error in errors):
            return known.refusal
    first = errors[0] if errors else "it did not say why"
    return Refusal(f"CRIU could not capture the workload: {first}", "see CRIU's documentation")
