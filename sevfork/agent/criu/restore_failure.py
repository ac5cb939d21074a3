"""Why CRIU could not restore a workload, in words that hold nothing of the workload's.

CRIU's messages may name or quote files, and the host must not read those. So a message is told as
far as it is one of CRIU's own constant texts (those below, from the sources of 4.2), and of what
follows only the words of an errno.
"""

from __future__ import annotations

import errno
import os
import re

from sevfork.agent.criu.refusal import Refusal, error_lines

_NO_MEMORY = os.strerror(errno.ENOMEM)
# Not as one pattern: that takes 6 to 9 ms to compile at each start, and many times that where the
# guest is emulated.
_ERRNO_WORDS = frozenset(map(os.strerror, errno.errorcode))
_PREFIX = re.compile(r"^(?:[a-z_-]+: )+")  # the part of CRIU that speaks
_GENERAL_ADVICE = "the parent runs on; see that place in the source of CRIU 4.2"
_ADVICE = (
    (
        re.compile(rf"Unable to map ANON_VMA|{_NO_MEMORY}|{os.strerror(errno.ENOSPC)}"),
        "give the VM more memory: a child needs as much again as the workload holds",
    ),
    (
        re.compile(r"Can't create posix timer|Unexpected timer id"),
        "tell the workload to use timerfd, or a timer that signals the process",
    ),
    (
        re.compile(r"Can't bind"),
        "let the workload listen on all addresses, or on the guest's own",
    ),
)
# The beginnings of messages that a restore can end with; what they go on with is not told.
_CONSTANT = (
    "Can't attach to init",
    "Can't bind inet socket",
    "Can't bind socket",
    "Can't block signals",
    "Can't catch all tasks",
    "Can't create even fake link!",
    "Can't create inet socket",
    "Can't create netlink socket",
    "Can't create posix timer",
    "Can't create pipe",
    "Can't create socket",
    "Can't create timers, kernel don't give them consequently",
    "Can't dup",
    "Can't fixup VMA's fd",
    "Can't fork for",
    "Can't get root fd",
    "Can't link",
    "Can't make socket listen",
    "Can't map restorer code",
    "Can't map shmem",
    "Can't mmap section for restore code",
    "Can't open file",
    "Can't open vma",
    "Can't put inet socket back to repair off",
    "Can't remap restorer blob",
    "Can't restore",
    "Can't set",
    "Can't stop all tasks on rt_sigreturn",
    "Can't unmap guard page",
    "Can't write",
    "Couldn't unlink remap",
    "Failed to open",
    "Failed to restore",
    "Failed to set",
    "Failed to unlink the remap file",
    "Failed to wait",
    "File",
    "Pid",
    "Restoring CHLD sigaction failed",
    "Setting PID failed",
    "Trying to restore page for non-private VMA",
    "Unable to create",
    "Unable to enter existing PID namespace",
    "Unable to map ANON_VMA",
    "Unable to open",
    "Unable to remap a private vma",
    "Unable to restore",
    "Unable to set",
    "Unable to truncate memfd",
    "Unexpected timer id",
)


def explain_restore(log: str) -> Refusal:
    """What CRIU's log of a failed restore may be told to say, and what to do about it."""
    errors = error_lines(log)
    if not errors:
        return Refusal("CRIU could not restore it and does not say why", _GENERAL_ADVICE)
    place, message = errors[0]
    told = ": ".join(filter(None, (_constant(message), _errno(message))))
    advice = next((words for known, words in _ADVICE if known.search(message)), _GENERAL_ADVICE)
    return Refusal(f"CRIU failed at {place}{f' ({told})' if told else ''}", advice)


def _constant(message: str) -> str | None:
    said = _PREFIX.sub("", message)
    fitting = [text for text in _CONSTANT if said.startswith(text)]
    return max(fitting, key=len, default=None)


def _errno(message: str) -> str | None:
    words = message.rpartition(": ")[2]
    return words if words in _ERRNO_WORDS else None
