"""Connections to libvirt, and the event loop that channels and keep-alive need."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from typing import Any

import libvirt

from sevfork.errors import HypervisorUnreachable
from sevfork.host.aside import within
from sevfork.host.libvirt.errors import first_line

log = logging.getLogger(__name__)

# A dead peer is noticed after about a minute: first capability probes keep libvirtd's workers, but
# not its main loop, busy for longer than that.
_KEEPALIVE_INTERVAL_S, _KEEPALIVE_COUNT = 10, 6
OPEN_TIMEOUT_S = 60.0


_event_loop = threading.Lock()
_event_loop_runs = False


def _run_event_loop() -> None:
    """libvirt's default event loop on a daemon thread: channels and keep-alive need it."""
    global _event_loop_runs
    with _event_loop:
        if _event_loop_runs:
            return
        _event_loop_runs = True
        libvirt.registerErrorHandler(lambda _context, _error: None, None)  # it would print
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_turn_events, name="libvirt-events", daemon=True).start()


def _turn_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def open_connection(uri: str) -> Any:
    _run_event_loop()
    log.debug("connect %s", uri)
    connection = _opened(uri)
    with contextlib.suppress(libvirt.libvirtError):  # test:/// and embedded connections have none
        connection.setKeepAlive(_KEEPALIVE_INTERVAL_S, _KEEPALIVE_COUNT)
    return connection


def _opened(uri: str) -> Any:
    """Keep-alive begins only with a connection: until then a libvirtd that hangs is waited for."""
    try:
        return within(OPEN_TIMEOUT_S, lambda: libvirt.open(uri), "libvirt-open")
    except TimeoutError as exc:
        raise HypervisorUnreachable(
            f"libvirt at '{uri}' did not answer within {OPEN_TIMEOUT_S:g} s",
            hint="does libvirtd hang? Look at it, or restart it: guests go on running",
        ) from exc
    except libvirt.libvirtError as exc:
        raise HypervisorUnreachable(f"no libvirt at '{uri}': {first_line(exc)}") from exc


def close_connection(connection: Any) -> None:
    with contextlib.suppress(libvirt.libvirtError):  # closing what is closed already
        connection.close()


def is_local(uri: str) -> bool:
    """Whether a connection URI speaks of this machine: it has no host part."""
    return re.match(r"[a-z0-9+]+:///", uri) is not None
