"""The name of a container image, as skopeo has it: ``TRANSPORT:DETAILS``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sevfork.errors import UsageError

_IN_FILES = ("oci", "oci-archive", "docker-archive", "dir")
_BY_NAME = ("docker", "containers-storage")
_EXAMPLE = "for example oci:DIR:TAG, docker-archive:FILE, docker://docker.io/library/nginx:1.29"
_LONGEST = 4096
_NAME = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class Reference:
    """``text``: as it was given, with which it is found. ``name``: what a workload is called."""

    text: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raise UsageError unless it names an image in a place that is known here."""
        transport, colon, details = text.partition(":")
        if not colon or transport not in (*_IN_FILES, *_BY_NAME):
            known = ", ".join((*_IN_FILES, *_BY_NAME))
            raise UsageError(f"container image '{text}': not one of {known}", hint=_EXAMPLE)
        if len(text) > _LONGEST or not text.isprintable() or text != text.strip():
            raise UsageError(f"container image {text!r}: not a name", hint=_EXAMPLE)
        if transport == "docker" and not details.startswith("//"):
            raise UsageError(f"container image '{text}': write docker://{details}")
        if not details.strip("/"):
            raise UsageError(f"container image '{text}': names nothing", hint=_EXAMPLE)
        return cls(text, _workload_name(transport, details))


def _workload_name(transport: str, details: str) -> str:
    """The last part of the path, without tag and digest, in the letters that a name may have."""
    named = details
    if transport in _IN_FILES:
        path, _, tag = details.partition(":")
        named = tag if transport.endswith("-archive") and tag else Path(path).name
        named = named.removesuffix(".tar")
    last = named.rstrip("/").rpartition("/")[2].partition("@")[0].partition(":")[0]
    return _NAME.sub("-", last.lower()).strip("-")[:40].rstrip("-") or "workload"
