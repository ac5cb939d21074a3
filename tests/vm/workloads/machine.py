"""Says over HTTP what a program finds of the machine that it runs on.

GET /machine   JSON: all of it
GET /mark      what a hook wrote (404: nothing yet)
GET /fail      from now on the last hook fails; GET /mend: no more
GET /          JSON: the wall clock (seconds)
"""

from __future__ import annotations

import ctypes
import errno
import http.server
import json
import os
import pathlib
import pty
import socket
import sys
import time

IO_URING_SETUP, KEYCTL, LANDLOCK, PKEY_ALLOC, MEMFD_SECRET = 425, 250, 444, 330, 447
PROC = pathlib.Path("/proc")
PLACE = pathlib.Path("/var/lib/workload")
CALLS = {
    "io_uring_setup": (IO_URING_SETUP, 8, ctypes.create_string_buffer(120)),
    "keyctl": (KEYCTL, 0, -3, 0),
    "landlock_create_ruleset": (LANDLOCK, 0, 0, 1),
    "pkey_alloc": (PKEY_ALLOC, 0, 0),
    "memfd_secret": (MEMFD_SECRET, 0),
}


def answer(call: str) -> str:
    """The name of the errno that a system call ends with."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(*CALLS[call]) >= 0:
        return "done"
    return errno.errorcode[ctypes.get_errno()]


def pseudo_terminal() -> str:
    """What one end of a pseudo-terminal reads of what was written to the other."""
    controller, terminal = pty.openpty()
    os.write(terminal, b"through a terminal")
    return os.read(controller, 100).decode()


def processes() -> int:
    return sum(entry.name.isdigit() for entry in PROC.iterdir())


def machine() -> dict[str, object]:
    """Everything at once."""
    status = (PROC / "self" / "status").read_text()
    return {
        "host_name": socket.gethostname(),
        "address": socket.gethostbyname(socket.gethostname()),
        "terminal": pseudo_terminal(),
        "seccomp": status.split("Seccomp:")[1].split()[0],
        "calls": {call: answer(call) for call in CALLS},
        "wall_s": time.time(),
        "processes": processes(),
        "drivers": (PROC / "devices").read_text() + (PROC / "filesystems").read_text(),
    }


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/mark":
            mark = PLACE / "mark"
            self._answer(200, mark.read_bytes()) if mark.exists() else self._answer(404, b"")
            return
        if self.path == "/fail":
            (PLACE / "fail").touch()
        if self.path == "/mend":
            (PLACE / "fail").unlink()
        body = json.dumps(machine() if self.path == "/machine" else {"wall_s": time.time()})
        self._answer(200, body.encode())

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """On all addresses of both kinds, as servers of today listen."""

    address_family = socket.AF_INET6


if __name__ == "__main__":
    Server(("::", int(sys.argv[1])), Handler).serve_forever()
