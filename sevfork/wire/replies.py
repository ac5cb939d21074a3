"""What an agent answers, and what it says by the way: progress, and failures."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from sevfork.wire.message import (
    MAX_ANSWER_BYTES,
    MAX_CHILDREN,
    MAX_EVENTS,
    MAX_LOGS_BYTES,
    MAX_PIECE_BYTES,
    Count,
    Index,
    LifeEvent,
    Message,
    Milliseconds,
    Nanoseconds,
    ReturnCode,
    Step,
    WorkloadPhase,
)

_MAX_EVENT_BYTES = 2048  # of an EVENT, which has 1024 bytes of detail at most
_MAX_LAUNCH_CONFIG_BYTES = 104
MAX_FAMILY = 1024  # children that a VM lists
MAX_PAGE = 256  # entries of a chronicle in one reply
_Id = Annotated[bytes, Meta(min_length=16, max_length=16)]


class Status(Message, frozen=True):
    """What the agent is and what its workload does.

    ``uncapturable``: why a trial capture at start-up failed, in words, or None: a hint, because
    what was in its way may be over. A capture tries. ``state_bytes``: about what a capture would
    have to write now. ``launch_config`` is empty before the host has told it. ``logs``: who may
    read what the workload prints. ``exec_policy``: who may run commands inside. ``printed``: its
    last lines, where it did not start.
    """

    version: str
    technology: str
    phase: WorkloadPhase
    detail: str
    uncapturable: str | None
    role: str | None
    generation: Count
    instance_key: bytes
    policy_digest: bytes
    fork_policy: str
    workload: str
    state_bytes: Count = 0
    launch_config: Annotated[bytes, Meta(max_length=_MAX_LAUNCH_CONFIG_BYTES)] = b""
    logs: str = ""
    exec_policy: str = ""
    printed: str = ""


class ExecHeard(Message, frozen=True):
    """What a command inside has printed since, how much of its input it took, and how it ended.

    ``returncode`` is None while it runs, or has more to say.
    """

    taken: Count
    stdout: Annotated[bytes, Meta(max_length=MAX_PIECE_BYTES)]
    stderr: Annotated[bytes, Meta(max_length=MAX_PIECE_BYTES)]
    returncode: ReturnCode | None = None


class Clock(Message, frozen=True):
    """Nanoseconds since 1970."""

    wall_ns: Nanoseconds


class Captured(Message, frozen=True):
    """The pause in ms; plaintext and sealed sizes in bytes."""

    pause_ms: Milliseconds
    state_bytes: Count
    sealed_bytes: Count


class SnapshotMade(Message, frozen=True):
    """The snapshot is up to date. Sizes in bytes, the pause in ms.

    ``layers`` in all; ``begun_anew`` says why this update was a base, and is empty where it was
    none. ``free_bytes`` are left in the volume; ``kept_bytes`` of guest memory are held for it.
    """

    layers: Count
    begun_anew: str
    pause_ms: Milliseconds
    state_bytes: Count
    sealed_bytes: Count
    free_bytes: Count
    kept_bytes: Count


class Reserved(Message, frozen=True):
    """One OFFER a child, in index order."""

    fork_id: bytes
    offers: Annotated[list[bytes], Meta(max_length=MAX_CHILDREN)]


class Refreshed(Message, frozen=True):
    update: bytes


class Called(Message, frozen=True):
    """A CALL, and the number of the warm child in the capture that it is called to."""

    call: bytes
    index: Index


class Activated(Message, frozen=True):
    activate: bytes


class Granted(Message, frozen=True):
    grant: bytes


class Joining(Message, frozen=True):
    join: bytes


class Held(Message, frozen=True):
    """The CONFIRM of a GRANT, empty for an UPDATE; what the warm child holds, in bytes."""

    confirm: bytes
    held_bytes: Count


class Answering(Message, frozen=True):
    answer: bytes


class Restored(Message, frozen=True):
    """The CONFIRM and the events, for the parent. The workload runs and its hooks have passed."""

    confirm: bytes
    events: Annotated[list[bytes], Meta(max_length=MAX_EVENTS)]
    generation: Count
    restore_ms: Milliseconds


class Happened(Message, frozen=True):
    """One event; ``returncode`` is that of EXITED, or None: the agent does not know it.

    ``sealed`` is the EVENT that tells the parent; a root has none, and its events are not sealed.
    """

    event: LifeEvent
    returncode: ReturnCode | None = None
    sealed: Annotated[bytes, Meta(max_length=_MAX_EVENT_BYTES)] = b""


class Life(Message, frozen=True):
    """All that has happened to a VM since it was launched: of a child, in the order of its EVENTs.

    ``phase`` is UNCONFIGURED in an agent that was started again: it knows of nothing.
    """

    phase: WorkloadPhase
    events: Annotated[list[Happened], Meta(max_length=MAX_EVENTS)]


class KnownChild(Message, frozen=True):
    """A child that has confirmed: its place in a fork, and how many EVENTs of it have come.

    ``over``: nothing more is awaited, because its workload has exited, or the VM was shut down.
    """

    fork_id: _Id
    index: Index
    heard: Count
    over: bool


class Family(Message, frozen=True):
    """The children of a VM whose EVENTs it takes, the oldest first."""

    children: Annotated[list[KnownChild], Meta(max_length=MAX_FAMILY)]


class Entry(Message, frozen=True):
    """What a VM was told of a child, by that child but for LOST; numbers rise, and may have gaps.

    ``child`` is the unique id in the child's own generation file, empty before its CONFIRM.
    ``wall_ns`` is when the VM was told, in nanoseconds since 1970 by its own clock.
    """

    number: Count
    wall_ns: Nanoseconds
    child: Annotated[bytes, Meta(max_length=16)]
    fork_id: _Id
    index: Index
    event: LifeEvent
    returncode: ReturnCode | None = None


class Chronicle(Message, frozen=True):
    """The next entries; none when there are no more."""

    entries: Annotated[list[Entry], Meta(max_length=MAX_PAGE)]


class Descent(Message, frozen=True):
    """A VM's own encoded lineage."""

    lineage: bytes


class Audited(Message, frozen=True):
    """The head of an audit record, and LP(entry) for each entry that is kept (docs/audit.md)."""

    head: bytes
    entries: bytes


class Logs(Message, frozen=True):
    """Bytes that a workload has printed; ``start`` were printed before them, ``end`` in all.

    ``start`` is larger than what was asked for where that is not kept any more.
    """

    start: Count
    data: Annotated[bytes, Meta(max_length=MAX_LOGS_BYTES)]
    end: Count


class OwnerTold(Message, frozen=True):
    """The answer to an owner's question, sealed for who has made that."""

    answer: Annotated[bytes, Meta(max_length=MAX_ANSWER_BYTES)]


class Attested(Message, frozen=True):
    """``claims`` is what the agent says of itself; its hash and the nonce's are in report data."""

    evidence: bytes
    claims: bytes


class Done(Message, frozen=True):
    pass


Reply = (
    Status
    | ExecHeard
    | Clock
    | Captured
    | SnapshotMade
    | Reserved
    | Refreshed
    | Called
    | Activated
    | Granted
    | Joining
    | Held
    | Answering
    | Restored
    | Life
    | Family
    | Chronicle
    | Descent
    | Audited
    | Logs
    | OwnerTold
    | Attested
    | Done
)


class Progress(Message, frozen=True):
    """A step that began or moved on; done and total in bytes, total 0 where it is not known."""

    phase: Step
    done: Count = 0
    total: Count = 0


class Failure(Message, frozen=True):
    """An error, with the exit code that the command should end with.

    ``printed``: the last lines of a program of the workload, where the image lets the host see it.
    """

    exit_code: int
    message: str
    hint: str | None = None
    printed: str = ""
