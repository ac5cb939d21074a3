"""What the host and the agent say to each other: requests, replies, progress, failures.

Payloads are msgpack of the structs below. Everything that decides about trust travels inside them
as opaque bytes (launch configurations, handshake messages, evidence) and is parsed by the package
it belongs to. Both sides treat what they read as hostile.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from sevfork import errors
from sevfork.wire.lines import Frame, Kind

# 64 OFFERs of 2 KiB fit into one frame; whoever wants more children forks again.
MAX_CHILDREN = 64
_DAY_MS = 24 * 60 * 60 * 1000.0
_TEXT_LIMIT = 2000
_MAX_EVENTS = 16  # of a restore; each costs the host one request to the parent

# A guest must not decide what document the host prints: NaN is no JSON, and no size is below zero.
# The upper bound is that of a JSON number in most readers of it.
Milliseconds = Annotated[float, Meta(ge=0, le=_DAY_MS)]
Count = Annotated[int, Meta(ge=0, lt=2**53)]
Index = Annotated[int, Meta(ge=0, lt=MAX_CHILDREN)]


Nanoseconds = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]


class WorkloadPhase(StrEnum):
    """What a VM's workload is doing, as its agent says."""

    UNCONFIGURED = "unconfigured"
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    WAITING = "waiting"  # a child before its GRANT


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


# Requests, host to agent. What the host relays keeps the tag on the wire that its message has.


class GetStatus(Message, frozen=True):
    """Answered by Status at any time."""


class ReadClock(Message, frozen=True):
    """What the guest's wall clock says. -> Clock"""


class Configure(Message, frozen=True):
    """The launch configuration, which the agent checks against its own report. -> Status

    ``clock_step_ns`` is what the guest's wall clock is behind the host's, as ReadClock told: a
    guest has its time from a clock with seconds, and from nobody but the host.
    """

    launch_config: bytes
    clock_step_ns: Nanoseconds = 0


class Capture(Message, frozen=True):
    """Capture the workload into the volume with this serial, for ``count`` children. -> Captured"""

    count: int
    volume_serial: str
    token: bytes | None = None


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


class Attest(Message, frozen=True):
    """Fresh evidence over the caller's nonce, never over report data of its choice. -> Attested"""

    nonce: bytes


Request = (
    GetStatus
    | ReadClock
    | Configure
    | Capture
    | RelayJoin
    | RelayConfirm
    | RelayEvent
    | Abandon
    | RelayOffer
    | Restore
    | Attest
)

# Replies, agent to host.


class Status(Message, frozen=True):
    """What the agent is and what its workload does.

    ``uncapturable``: why a trial capture at start-up failed, in words, or None: a hint, because
    what was in its way may be over. A capture tries. ``state_bytes``: about what a capture would
    have to write now.
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


class Clock(Message, frozen=True):
    """Nanoseconds since 1970."""

    wall_ns: Nanoseconds


class Captured(Message, frozen=True):
    """One OFFER a child, in index order; the pause in ms; plaintext and sealed sizes in bytes."""

    fork_id: bytes
    offers: Annotated[list[bytes], Meta(max_length=MAX_CHILDREN)]
    pause_ms: Milliseconds
    state_bytes: Count
    sealed_bytes: Count


class Granted(Message, frozen=True):
    grant: bytes


class Joining(Message, frozen=True):
    join: bytes


class Restored(Message, frozen=True):
    """The CONFIRM and the events, for the parent. The workload runs and its hooks have passed."""

    confirm: bytes
    events: Annotated[list[bytes], Meta(max_length=_MAX_EVENTS)]
    generation: Count
    restore_ms: Milliseconds


class Attested(Message, frozen=True):
    """``claims`` is what the agent says of itself; its hash and the nonce's are in report data."""

    evidence: bytes
    claims: bytes


class Done(Message, frozen=True):
    pass


Reply = Status | Clock | Captured | Granted | Joining | Restored | Attested | Done


class Progress(Message, frozen=True):
    """A step that began or moved on; done and total in bytes, total 0 where it is not known."""

    phase: Step
    done: Count = 0
    total: Count = 0


class Failure(Message, frozen=True):
    """An error, with the exit code that the command should end with."""

    exit_code: int
    message: str
    hint: str | None = None


_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
_status: msgspec.msgpack.Decoder[Status] = msgspec.msgpack.Decoder(Status)
_progress = msgspec.msgpack.Decoder(Progress)
_failure = msgspec.msgpack.Decoder(Failure)

_Decoded = TypeVar("_Decoded")


def encode(message: Message) -> bytes:
    """Texts are cut, so that a message fits into a frame, and hold what UTF-8 can carry."""
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    texts = {name: _sendable(text) for name, text in fields.items() if type(text) is str}
    return _encoder.encode(msgspec.structs.replace(message, **texts) if texts else message)


def _sendable(text: str) -> str:
    """A lone surrogate stands for a byte of a file name that is no UTF-8: it is escaped."""
    return text[:_TEXT_LIMIT].encode("utf-8", "backslashreplace").decode()


def _decode(decoder: msgspec.msgpack.Decoder[_Decoded], payload: bytes) -> _Decoded:
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise errors.NotAuthentic(
            "the channel carried a message that is not of the protocol"
        ) from exc


def decode_request(payload: bytes) -> Request:
    """Raise NotAuthentic for anything but one request."""
    return _decode(_requests, payload)


def decode_reply(payload: bytes) -> Reply:
    """Raise NotAuthentic for anything but one reply."""
    return _decode(_replies, payload)


def decode_status(payload: bytes) -> Status:
    """Raise NotAuthentic for anything but a status, such as the claims of an attestation."""
    return _decode(_status, payload)


def decode_progress(payload: bytes) -> Progress:
    """Raise NotAuthentic for anything but one progress message."""
    return _decode(_progress, payload)


def decode_failure(payload: bytes) -> errors.SevforkError:
    """The error that a failure stands for; its text is cleaned for a terminal."""
    failure = _decode(_failure, payload)
    return error_for(
        failure.exit_code, clean(failure.message), failure.hint and clean(failure.hint)
    )


def failure_frame(request_id: bytes, error: errors.SevforkError) -> Frame:
    failure = Failure(error.exit_code, error.message, error.hint)
    return Frame(Kind.FAILURE, request_id, encode(failure))


_BY_EXIT_CODE: dict[int, type[errors.SevforkError]] = {
    kind.exit_code: kind
    for kind in (
        errors.UsageError,
        errors.WrongState,
        errors.HostCannot,
        errors.AttestationFailed,
        errors.InsecureRefused,
        errors.NotAuthentic,
        errors.RefusedByGuest,
        errors.RestoreFailed,
        errors.TimedOut,
    )
}


def error_for(exit_code: int, message: str, hint: str | None) -> errors.SevforkError:
    return _BY_EXIT_CODE.get(exit_code, errors.SevforkError)(message, hint=hint)


def clean(text: str) -> str:
    """Printable text only: what a guest says must not drive the terminal it is shown on."""
    return "".join(char if char.isprintable() else " " for char in text)[:_TEXT_LIMIT]
