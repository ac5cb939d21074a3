"""Serving the control channel: one request at a time, whatever the host does with the channel.

Who may ask is anyone who holds the channel, which is the host; so every request is one that a
hostile host may make, and what it may not do is refused where the thing itself is done.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import NoReturn

from sevfork.agent.link import HostGone, Link
from sevfork.agent.unexpected import place_of
from sevfork.errors import SevforkError
from sevfork.wire import protocol
from sevfork.wire.lines import Frame, Kind

log = logging.getLogger(__name__)

OnProgress = Callable[[protocol.Step, int, int], None]
Handler = Callable[[protocol.Request, OnProgress], protocol.Reply]
_IDLE_S = 10.0
LAST_WORDS_S = 2.0  # a VM that must not go on does not wait for a host that does not read


class VmMustEnd(SevforkError):
    """What happened cannot be undone, and the VM must not go on: it is switched off after this."""

    def __init__(self, cause: SevforkError) -> None:
        super().__init__(cause.message, hint=cause.hint, printed=cause.printed)
        self.exit_code = cause.exit_code


class VmEnds(SevforkError):
    """The VM ends because the host has asked for it: it is switched off after this reply."""

    def __init__(self, reply: protocol.Reply) -> None:
        super().__init__("the host has asked for it")
        self.reply = reply


def serve(
    link: Link, handle: Handler, power_off: Callable[[], NoReturn], idle: Callable[[], None]
) -> None:
    """Answer requests until the process ends; ``idle`` is called every few seconds besides."""
    while True:
        frame = link.next_frame(_IDLE_S)
        idle()
        if frame is not None and frame.kind == Kind.REQUEST:
            _serve_one(link, frame, handle, power_off)


def _serve_one(
    link: Link, frame: Frame, handle: Handler, power_off: Callable[[], NoReturn]
) -> None:
    try:
        link.send(_answer(link, frame, handle))
    except (VmMustEnd, VmEnds) as ending:
        log.error("switching off: %s", ending)
        try:
            with contextlib.suppress(HostGone):
                link.send(_last_word(frame.request_id, ending), LAST_WORDS_S)
        finally:
            power_off()
    except HostGone as gone:
        log.warning("no answer sent: %s", gone)


def _last_word(request_id: bytes, ending: VmMustEnd | VmEnds) -> Frame:
    if isinstance(ending, VmEnds):
        return Frame(Kind.REPLY, request_id, protocol.encode(ending.reply))
    return protocol.failure_frame(request_id, ending)


def _answer(link: Link, frame: Frame, handle: Handler) -> Frame:
    def progress(step: protocol.Step, done: int, total: int) -> None:
        message = protocol.Progress(step, done, total)
        link.send(Frame(Kind.PROGRESS, frame.request_id, protocol.encode(message)))

    try:
        reply = handle(protocol.decode_request(frame.payload), progress)
    except (HostGone, VmMustEnd, VmEnds):
        raise
    except SevforkError as error:
        log.warning("refused: %s", error)
        return protocol.failure_frame(frame.request_id, error)
    except Exception as exc:
        # The agent must outlive a request it mishandled.
        log.error("a request failed unexpectedly: %s", place_of(exc))
        failure = SevforkError("the agent failed unexpectedly", hint="see the VM's serial log")
        return protocol.failure_frame(frame.request_id, failure)
    return Frame(Kind.REPLY, frame.request_id, protocol.encode(reply))
