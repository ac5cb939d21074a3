"""What the messages of the channel are made of: bounded numbers, phases, steps, the base struct."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

# 64 OFFERs of 2 KiB fit into one frame; whoever wants more children forks again.
MAX_CHILDREN = 64
# Beside a report, in evidence as on its way there: a certificate table, or Intel's collateral.
MAX_CERTIFICATES_BYTES = 64 * 1024
MAX_LOGS_BYTES = 64 * 1024  # in one reply
MAX_PIECE_BYTES = 32 * 1024  # of one stream of a command inside, in one message
MAX_WORDS = 256  # of a command line
MAX_WORD_BYTES = 16 * 1024
MAX_QUESTION_BYTES = 8 * 1024
MAX_ANSWER_BYTES = 128 * 1024
MAX_EVENTS = 16  # of one VM; each costs the host one request to the parent
_DAY_MS = 24 * 60 * 60 * 1000.0

# A guest must not decide what document the host prints: NaN is no JSON, and no size is below zero.
# The upper bound is that of a JSON number in most readers of it.
Milliseconds = Annotated[float, Meta(ge=0, le=_DAY_MS)]
Count = Annotated[int, Meta(ge=0, lt=2**53)]
Index = Annotated[int, Meta(ge=0, lt=MAX_CHILDREN)]

# Of a process: its exit status, or less than 0 for the signal that ended it.
ReturnCode = Annotated[int, Meta(ge=-64, le=255)]
Nanoseconds = Annotated[int, Meta(ge=-(2**62), le=2**62)]


def status_and_signal(returncode: int | None) -> dict[str, int | None]:
    """The two numbers as documents have them: one of them at most is not None."""
    if returncode is None:
        return {"status": None, "signal": None}
    by_itself = returncode >= 0
    return {
        "status": returncode if by_itself else None,
        "signal": None if by_itself else -returncode,
    }


class WorkloadPhase(StrEnum):
    """What a VM's workload is doing, as its agent says."""

    UNCONFIGURED = "unconfigured"
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    WAITING = "waiting"  # a child before its GRANT
    HOLDING = "holding"  # a warm child, which holds its parent's state and runs nothing


class LifeEvent(StrEnum):
    """What happens to a VM. It says each once, in this order, or not at all; but for LOST."""

    RESTORED = "restored"  # a child: its parent's state runs
    READY = "ready"  # a child's hooks have passed, a root's workload answers
    FAILED = "failed"  # the restore of a child
    EXITED = "exited"  # the workload
    ENDING = "shutting down"  # the VM, because its host has asked for it
    LOST = "lost"  # the host says so, and of a VM that says nothing nobody else can


class Step(StrEnum):
    """What a capture or a restore is doing: what PROGRESS tells."""

    CAPTURE = "capture"
    COPY = "copy"
    FREEZE = "freeze"
    EXPORT = "export"
    FLUSH = "flush"
    UNSEAL = "unseal"
    RESTORE = "restore"


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """The base of every payload."""
