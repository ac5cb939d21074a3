"""An HTTP service with an expensive start: it computes a table of 100 MB, then answers from it.

GET /lookup/KEY   the value of KEY (0 to 99999), 1024 bytes: SHAKE-256 of its decimal digits
GET /status       JSON: entries, warm_up_s, requests (since the start of the service), process id
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

ENTRIES = 100_000
VALUE_SIZE = 1024
# Only so that the start takes its time: a longer output begins with the shorter one.
EXPENSE = 6


def value(key: int) -> bytes:
    return hashlib.shake_256(b"%d" % key).digest(EXPENSE * VALUE_SIZE)[:VALUE_SIZE]


class Service(HTTPServer):
    """Holds the table and counts requests."""

    def __init__(self, port: int) -> None:
        started = time.monotonic()
        self.table = {key: value(key) for key in range(ENTRIES)}
        self.warm_up_s = time.monotonic() - started
        self.requests = 0
        super().__init__(("0.0.0.0", port), Handler)  # noqa: S104 - published by the host only

    def status(self) -> bytes:
        return json.dumps(
            {
                "entries": len(self.table),
                "warm_up_s": round(self.warm_up_s, 3),
                "requests": self.requests,
                "pid": os.getpid(),
            }
        ).encode()


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self.server.requests += 1
        if self.path == "/status":
            self._answer(200, self.server.status())
        elif self.path.startswith("/lookup/") and self.path[8:].isdigit():
            found = self.server.table.get(int(self.path[8:]))
            self._answer(404 if found is None else 200, found or b"")
        else:
            self._answer(404, b"")

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged: the console belongs to the host."""


if __name__ == "__main__":
    Service(int(sys.argv[1])).serve_forever()
