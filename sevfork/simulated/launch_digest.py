"""The simulated launch digest: what the simulated secure processor measures of a launch."""

from __future__ import annotations

import hashlib

from sevfork.errors import UsageError
from sevfork.wire.lp import lp

SHA384_SIZE = 48


def simulated_launch_digest(
    kernel_sha384: bytes, initrd_sha384: bytes, cmdline: bytes, vcpus: int, cpu_model: str
) -> bytes:
    """48 bytes: what the simulated secure processor measures of a domain when it launches it."""
    if len(kernel_sha384) != SHA384_SIZE or len(initrd_sha384) != SHA384_SIZE:
        raise UsageError("a launch digest takes SHA-384 digests (48 bytes) of kernel and initrd")
    parts = (kernel_sha384, initrd_sha384, cmdline, vcpus.to_bytes(4, "big"), cpu_model.encode())
    return hashlib.sha384(lp(b"sevfork/1 simulated launch", *parts)).digest()
