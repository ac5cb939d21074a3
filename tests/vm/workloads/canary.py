"""Keeps a random secret of 1 MiB, which leaves the guest only when a test asks for it at the end.

GET /digest   SHA-256 of the secret in hexadecimal
GET /reveal   the secret itself; asked for only after all that is to be searched was collected

The secret is one bytes object, aligned to nothing: in RAM its 4 KiB pages are anywhere,
so a search looks for pieces that are much shorter than a page.
"""

from __future__ import annotations

import hashlib
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

SECRET = os.urandom(1 << 20)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers = {
            "/digest": lambda: hashlib.sha256(SECRET).hexdigest().encode(),
            "/reveal": lambda: SECRET,
        }
        answer = answers.get(self.path)
        body = answer() if answer else b""
        self.send_response(200 if answer else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    HTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()  # noqa: S104
