"""A small service for tests of after-fork hooks.

GET /mark          what a hook wrote to /var/lib/workload/mark (404: nothing yet)
GET /count         the number of requests that it answered
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

MARK = Path("/var/lib/workload/mark")


class Handler(BaseHTTPRequestHandler):
    count = 0

    def do_GET(self) -> None:
        type(self).count += 1
        if self.path == "/count":
            self._answer(200, b"%d" % self.count)
        elif self.path == "/mark" and MARK.exists():
            self._answer(200, MARK.read_bytes())
        else:
            self._answer(404, b"")

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    HTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()  # noqa: S104
