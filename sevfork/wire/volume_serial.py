"""The serial number of a sealed volume: the host makes it up, the guest finds the disk by it."""

from __future__ import annotations

import re
import secrets

_SERIAL = re.compile(r"sf-[0-9a-f]{16}")


def new_serial() -> str:
    """19 characters: virtio-blk has room for 20."""
    return f"sf-{secrets.token_hex(8)}"


def is_serial(text: str) -> bool:
    return _SERIAL.fullmatch(text) is not None
