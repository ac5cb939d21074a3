"""What the host asks of an agent. What it relays keeps the tag on the wire that its message has."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from sevfork.wire.message import (
    MAX_CERTIFICATES_BYTES,
    MAX_LOGS_BYTES,
    MAX_PIECE_BYTES,
    MAX_QUESTION_BYTES,
    MAX_WORD_BYTES,
    MAX_WORDS,
    Count,
    Index,
    Message,
    Nanoseconds,
)

Word = Annotated[str, Meta(max_length=MAX_WORD_BYTES)]


class GetStatus(Message, frozen=True):
    """Answered by Status at any time."""


class Events(Message, frozen=True):
    """What has happened to this VM, at any time. -> Life"""


class ShutDown(Message, frozen=True):
    """Switch this VM off; the answer is its last word. -> Life"""


class StopWorkload(Message, frozen=True):
    """Send the workload's first process its stop signal, or end all of it by ``force``. -> Life"""

    force: bool


class ExecStart(Message, frozen=True):
    """Run a command inside, as the workload's user. It ends when nobody asks for it. -> Done"""

    argv: Annotated[list[Word], Meta(min_length=1, max_length=MAX_WORDS)]


class ExecExchange(Message, frozen=True):
    """Input for the command inside, the last of it where ``close`` says so. -> ExecHeard"""

    data: Annotated[bytes, Meta(max_length=MAX_PIECE_BYTES)]
    close: bool


class ExecEnd(Message, frozen=True):
    """End the command inside, if there is one. -> Done"""


class ReadClock(Message, frozen=True):
    """What the guest's wall clock says. -> Clock"""


class Configure(Message, frozen=True):
    """The launch configuration, which the agent checks against its own report. -> Status

    ``clock_step_ns`` is what the guest's wall clock is behind the host's, as ReadClock told: a
    guest has its time from a clock with seconds, and from nobody but the host.
    """

    launch_config: bytes
    clock_step_ns: Nanoseconds = 0


class Endorse(Message, frozen=True):
    """What evidence is checked by: AMD's certificates and list, or Intel's collateral. -> Done

    At any time, again and again. Encoded as beside a report in evidence; nobody believes it.
    """

    certificates: Annotated[bytes, Meta(min_length=1, max_length=MAX_CERTIFICATES_BYTES)]


class Capture(Message, frozen=True):
    """Capture the workload into the volume with this serial, for a fork's children. -> Captured

    Into the volume of the snapshot goes only what was written since.
    """

    fork_id: bytes
    volume_serial: str


class UpdateSnapshot(Message, frozen=True):
    """Bring the snapshot in the volume with this serial up to date. -> SnapshotMade

    Where the volume holds none, or what was written since is not known any more, a new one begins.
    """

    volume_serial: str


class DropSnapshot(Message, frozen=True):
    """Keep no snapshot any more; its keys are erased. Warm children live on. -> Done"""


class Reserve(Message, frozen=True):
    """Places for children that are yet to be launched: one OFFER each. -> Reserved

    ``warm``: they are to hold the snapshot. Else they are the children of a capture that follows,
    and there may be none of them: warm ones are called later.
    """

    count: int
    warm: bool
    token: bytes | None = None


class Refresh(Message, frozen=True):
    """The UPDATE that brings a warm child to where the snapshot is. -> Refreshed"""

    fork_id: bytes
    index: Index


class Call(Message, frozen=True):
    """Call a warm child to be one of a capture's children. -> Called

    ``fork_id`` and ``index`` are its OFFER's, ``capture`` is the fork id of the capture.
    """

    fork_id: bytes
    index: Index
    capture: bytes


class RelayAnswer(Message, frozen=True, tag="Answer"):
    """A warm child's ANSWER to its CALL. -> Activated"""

    fork_id: bytes
    index: Index
    answer: bytes


class RelayJoin(Message, frozen=True, tag="Join"):
    """A child's JOIN for one of the OFFERs of a capture. -> Granted"""

    fork_id: bytes
    index: Index
    join: bytes


class RelayConfirm(Message, frozen=True, tag="Confirm"):
    """A child's CONFIRM. -> Done"""

    fork_id: bytes
    index: Index
    message: bytes


class RelayEvent(Message, frozen=True, tag="Event"):
    """A child's life-cycle EVENT. -> Done"""

    fork_id: bytes
    index: Index
    message: bytes


class ListFamily(Message, frozen=True):
    """The children whose EVENTs this VM takes. -> Family"""


class ReadChronicle(Message, frozen=True):
    """What this VM was told of its children, after the entry with this number. -> Chronicle"""

    after: Count


class ReportLost(Message, frozen=True):
    """A child has ended or says nothing, as the host has it: a hint, nothing ends by it. -> Done"""

    fork_id: bytes
    index: Index


class Abandon(Message, frozen=True):
    """Forget a capture: its OFFERs and image key are erased. -> Done"""

    fork_id: bytes


class RelayOffer(Message, frozen=True, tag="Offer"):
    """To a child: the OFFER it was launched for. -> Joining"""

    offer: bytes


class Restore(Message, frozen=True):
    """To a child: its GRANT, and where the sealed image is. -> Restored"""

    grant: bytes
    volume_serial: str


class Hold(Message, frozen=True):
    """To a warm child: its GRANT, and where the snapshot is. -> Held"""

    grant: bytes
    volume_serial: str


class Absorb(Message, frozen=True):
    """To a warm child: an UPDATE of what it holds. -> Held"""

    update: bytes
    volume_serial: str


class RelayCall(Message, frozen=True, tag="RelayCall"):
    """To a warm child: the CALL of a fork. -> Answering"""

    call: bytes


class Activate(Message, frozen=True):
    """To a warm child: ACTIVATE. It restores and runs. -> Restored"""

    activate: bytes
    volume_serial: str


class Adopt(Message, frozen=True):
    """To a root: its owner's certificate, for this instance, once. -> Done"""

    certificate: bytes


class GetLineage(Message, frozen=True):
    """Whom this VM descends from, with each parent's signature. -> Descent"""


class ReadAudit(Message, frozen=True):
    """The audit record, its head signed over the reader's nonce; at any time. -> Audited"""

    nonce: Annotated[bytes, Meta(min_length=32, max_length=32)]


class ReadLogs(Message, frozen=True):
    """What the workload has printed, from that byte on; below 0, so far from the end. -> Logs"""

    offset: Annotated[int, Meta(gt=-(2**53), lt=2**53)]
    limit: Annotated[int, Meta(ge=1, le=MAX_LOGS_BYTES)]


class OwnerAsks(Message, frozen=True):
    """A question that the VM's owner has signed (docs/owner-questions.md). -> OwnerTold"""

    question: Annotated[bytes, Meta(max_length=MAX_QUESTION_BYTES)]


class Attest(Message, frozen=True):
    """Fresh evidence over the caller's nonce, never over report data of its choice. -> Attested"""

    nonce: bytes


Request = (
    GetStatus
    | Events
    | ShutDown
    | StopWorkload
    | ExecStart
    | ExecExchange
    | ExecEnd
    | ReadClock
    | Configure
    | Endorse
    | Capture
    | UpdateSnapshot
    | DropSnapshot
    | Reserve
    | Refresh
    | Call
    | RelayAnswer
    | RelayJoin
    | RelayConfirm
    | RelayEvent
    | ListFamily
    | ReadChronicle
    | ReportLost
    | Abandon
    | RelayOffer
    | Restore
    | Hold
    | Absorb
    | RelayCall
    | Activate
    | Adopt
    | GetLineage
    | ReadAudit
    | ReadLogs
    | OwnerAsks
    | Attest
)
