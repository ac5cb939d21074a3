"""GET /exit/N      exits with N, at once and without an answer
GET /crash       is ended by SIGSEGV, which ends the first process of a container, too
GET /children    JSON: the lines about its children, and what its hook has been told of them
"""

from __future__ import annotations

import ctypes
import http.server
import json
import os
import pathlib
import sys

TOLD = pathlib.Path("/run/sevfork/children")
HOOKS = pathlib.Path("/var/lib/workload/hooks")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/exit/"):
            os._exit(int(self.path.removeprefix("/exit/")))
        if self.path == "/crash":
            ctypes.string_at(0)
        hooks = HOOKS.read_text().splitlines() if HOOKS.exists() else []
        told = [json.loads(line) for line in TOLD.read_text().splitlines()]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"children": told, "hooks": hooks}).encode())

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    # Open all the while, as with `tail -f`: a child must be restored with it.
    with TOLD.open():
        http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
