"""One GET over HTTP, for what vendors publish: bounded in size and time, no redirects.

Of urllib and no more: one request without state, whose answer is signed by somebody else. It takes
proxies and certificate authorities from where every program does (``HTTPS_PROXY``,
``SSL_CERT_FILE``).
"""

from __future__ import annotations

import email.utils
import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from sevfork.errors import HostCannot

LIMIT_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16


@dataclass(frozen=True)
class Answer:
    """What a service said. ``headers`` are by lower-case name.

    ``retry_after_s`` is its own wish after a refusal, if it had one.
    """

    status: int
    body: bytes
    retry_after_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Fetcher(Protocol):
    """Gets one URL; raises HostCannot if there is no whole answer."""

    def __call__(self, url: str, *, timeout_s: float) -> Answer: ...


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The services have none; whoever wants to send us elsewhere is a captive portal."""

    def redirect_request(self, *_: object) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def http_fetcher(url: str, *, timeout_s: float) -> Answer:
    """The real one. Any HTTP status is an Answer; ``timeout_s`` is for all of it."""
    if not url.startswith(("https://", "http://")):
        raise HostCannot(f"'{url}' is no URL of a web service")
    try:
        with _opener.open(url, timeout=timeout_s) as response:
            body = _body(response, time.monotonic() + timeout_s)
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, body, headers=headers)
    except urllib.error.HTTPError as exc:
        with exc:
            return Answer(exc.code, b"", _seconds(exc.headers.get("Retry-After")))
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise HostCannot(f"'{url}' cannot be got: {_words(exc)}") from exc


def _body(response: http.client.HTTPResponse, end: float) -> bytes:
    """All of it, or an error: one that is cut short must not pass for a short one."""
    body = b""
    while piece := response.read1(_PIECE_BYTES):
        body += piece
        if len(body) > LIMIT_BYTES:
            raise HostCannot(f"an answer of more than {LIMIT_BYTES} bytes")
        if time.monotonic() > end:
            raise TimeoutError
    if response.length:
        raise http.client.IncompleteRead(body, response.length)
    return body


def _words(exc: Exception) -> str:
    """The system's own word for what went wrong; a library's would be Python."""
    cause = exc.reason if isinstance(exc, urllib.error.URLError) else exc
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(cause, ssl.SSLError):
        return "no TLS connection that can be trusted"
    if isinstance(cause, http.client.IncompleteRead):
        return "an answer that is cut short"
    words = cause.strerror if isinstance(cause, OSError) else None
    return words or "no answer that makes sense"


def _seconds(header: str | None) -> float | None:
    """``Retry-After``: seconds, or a date (RFC 9110); None where it is neither."""
    if header is None:
        return None
    if header.isdecimal():
        return float(header)
    try:
        at = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (at.astimezone(UTC) - datetime.now(UTC)).total_seconds())
