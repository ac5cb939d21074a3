"""Holds as much memory as it is told to.

GET /fill/N    map random bytes until this process has N MiB resident; JSON: MiB resident
GET /digest    of 64 bytes of each page of them, as hexadecimal digits
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

MIB = 2**20


class Handler(BaseHTTPRequestHandler):
    held: list[mmap.mmap] = []  # noqa: RUF012 - all requests' own

    def do_GET(self) -> None:
        body = self.answer().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self) -> str:
        if self.path == "/digest":
            digest = hashlib.blake2b()
            for piece in self.held:
                digest.update(piece[::64])
            return digest.hexdigest()
        wanted = int(self.path.removeprefix("/fill/"))
        while resident_mib() < wanted:
            piece = mmap.mmap(-1, MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            piece[:] = os.urandom(MIB)
            self.held.append(piece)
        return str(resident_mib())

    def log_message(self, format: str, *args: object) -> None:
        pass


def resident_mib() -> int:
    """Anonymous memory of this process, without the pages of files."""
    (kilobytes,) = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) // 1024


if __name__ == "__main__":
    HTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()  # noqa: S104
