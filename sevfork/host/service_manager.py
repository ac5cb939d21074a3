"""Telling a service manager that a command which runs on is ready: sd_notify(3)."""

from __future__ import annotations

import os
import socket


def notify_ready() -> None:
    """``READY=1`` to ``NOTIFY_SOCKET``, where a service manager has set it.

    Raises OSError when nobody listens there: whoever set it waits for the word.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        # A leading '@' stands for the zero byte of an abstract name.
        notifier.connect("\0" + address[1:] if address.startswith("@") else address)
        notifier.send(b"READY=1")
