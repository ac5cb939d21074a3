"""What the host and the agent say to each other: requests, replies, progress, failures.

Payloads are msgpack of the structs below. Everything that decides about trust travels inside them
as opaque bytes (launch configurations, handshake messages, evidence) and is parsed by the package
it belongs to. Both sides treat what they read as hostile.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from sevfork import errors
from sevfork.wire.lines import Frame, Kind
from sevfork.wire.message import (
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
    status_and_signal,
)
from sevfork.wire.replies import (
    MAX_FAMILY,
    MAX_PAGE,
    Activated,
    Answering,
    Attested,
    Audited,
    Called,
    Captured,
    Chronicle,
    Clock,
    Descent,
    Done,
    Entry,
    ExecHeard,
    Failure,
    Family,
    Granted,
    Happened,
    Held,
    Joining,
    KnownChild,
    Life,
    Logs,
    OwnerTold,
    Progress,
    Refreshed,
    Reply,
    Reserved,
    Restored,
    SnapshotMade,
    Status,
)
from sevfork.wire.requests import (
    Abandon,
    Absorb,
    Activate,
    Adopt,
    Attest,
    Call,
    Capture,
    Configure,
    DropSnapshot,
    Endorse,
    Events,
    ExecEnd,
    ExecExchange,
    ExecStart,
    GetLineage,
    GetStatus,
    Hold,
    ListFamily,
    OwnerAsks,
    ReadAudit,
    ReadChronicle,
    ReadClock,
    ReadLogs,
    Refresh,
    RelayAnswer,
    RelayCall,
    RelayConfirm,
    RelayEvent,
    RelayJoin,
    RelayOffer,
    ReportLost,
    Request,
    Reserve,
    Restore,
    ShutDown,
    StopWorkload,
    UpdateSnapshot,
)

__all__ = [
    "Abandon",
    "Absorb",
    "Activate",
    "Activated",
    "Adopt",
    "Answering",
    "Attest",
    "Attested",
    "Audited",
    "Call",
    "Called",
    "Capture",
    "Captured",
    "Chronicle",
    "Clock",
    "Configure",
    "Count",
    "Descent",
    "Done",
    "DropSnapshot",
    "Endorse",
    "Entry",
    "Events",
    "ExecEnd",
    "ExecExchange",
    "ExecHeard",
    "ExecStart",
    "Failure",
    "Family",
    "GetLineage",
    "GetStatus",
    "Granted",
    "Happened",
    "Held",
    "Hold",
    "Index",
    "Joining",
    "KnownChild",
    "Life",
    "LifeEvent",
    "ListFamily",
    "Logs",
    "MAX_CHILDREN",
    "MAX_EVENTS",
    "MAX_FAMILY",
    "MAX_LOGS_BYTES",
    "MAX_PIECE_BYTES",
    "MAX_PAGE",
    "Message",
    "Milliseconds",
    "Nanoseconds",
    "OwnerAsks",
    "OwnerTold",
    "Progress",
    "ReadAudit",
    "ReadChronicle",
    "ReadClock",
    "ReadLogs",
    "Refresh",
    "Refreshed",
    "RelayAnswer",
    "RelayCall",
    "RelayConfirm",
    "RelayEvent",
    "RelayJoin",
    "RelayOffer",
    "Reply",
    "ReportLost",
    "Request",
    "Reserve",
    "Reserved",
    "Restore",
    "Restored",
    "ReturnCode",
    "ShutDown",
    "SnapshotMade",
    "Status",
    "Step",
    "StopWorkload",
    "UpdateSnapshot",
    "WorkloadPhase",
    "clean",
    "decode_failure",
    "decode_progress",
    "decode_reply",
    "decode_request",
    "decode_status",
    "encode",
    "error_for",
    "failure_frame",
    "status_and_signal",
]

_TEXT_LIMIT = 2000
_MAX_LINES = 20
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


def decode_failure(payload: bytes, vm: str = "VM") -> errors.SevforkError:
    """The error that a failure stands for; its text is cleaned for a terminal.

    A guest does not know what its host calls it: ``{vm}`` in its hint becomes ``vm``.
    """
    failure = _decode(_failure, payload)
    hint = failure.hint and clean(failure.hint).replace("{vm}", vm)
    error = error_for(failure.exit_code, clean(failure.message), hint)
    error.printed = clean_lines(failure.printed)
    return error


def failure_frame(request_id: bytes, error: errors.SevforkError) -> Frame:
    failure = Failure(error.exit_code, error.message, error.hint, error.printed)
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


def clean_lines(text: str) -> str:
    """The same for a text of several lines, of which the last count."""
    return "\n".join(map(clean, text.splitlines()[-_MAX_LINES:]))
