"""Sends a UDP packet every few milliseconds, and watches clocks and identity all the while.

And keeps a random secret of 1 MiB, one bytes object that is aligned to nothing: in RAM its 4 KiB
pages are anywhere, so a search looks for pieces that are much shorter than a page.

GET /observe   JSON: monotonic and wall clock (seconds), how often CLOCK_MONOTONIC went back and by
               how much at most, packets sent, generation as mapped, machine id, host name, random
GET /digest    SHA-256 of the secret in hexadecimal
GET /reveal    the secret itself; asked for only after all that is to be searched was collected
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

SECRET = os.urandom(1 << 20)
GATEWAY = ("10.0.2.2", 9)


class Observer(threading.Thread):
    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.sent = 0
        self.went_back = 0
        self.furthest_back_s = 0.0
        self.longest_step_s = 0.0
        descriptor = os.open("/run/sevfork/generation", os.O_RDONLY)
        self.generation = mmap.mmap(descriptor, 4096, mmap.MAP_SHARED, mmap.PROT_READ)
        os.close(descriptor)

    def run(self) -> None:
        out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        before = time.monotonic()
        while True:
            now = time.monotonic()
            if now < before:
                self.went_back += 1
                self.furthest_back_s = max(self.furthest_back_s, before - now)
            self.longest_step_s = max(self.longest_step_s, now - before)
            before = now
            with suppress(OSError):
                out.sendto(b"beacon", GATEWAY)
                self.sent += 1
            time.sleep(0.005)

    def seen(self) -> dict[str, object]:
        return {
            "monotonic_s": time.monotonic(),
            "wall_s": time.time(),
            "went_back": self.went_back,
            "furthest_back_s": self.furthest_back_s,
            "longest_step_s": self.longest_step_s,
            "sent": self.sent,
            "generation": self.generation[:24].hex(),
            "machine_id": Path("/etc/machine-id").read_text().strip(),
            "host_name": socket.gethostname(),
            "random": os.urandom(16).hex(),
        }


class Handler(BaseHTTPRequestHandler):
    observer: Observer

    def do_GET(self) -> None:
        answers = {
            "/observe": lambda: json.dumps(self.observer.seen()).encode(),
            "/digest": lambda: hashlib.sha256(SECRET).hexdigest().encode(),
            "/reveal": lambda: SECRET,
        }
        body = answers[self.path]()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    Handler.observer = Observer()
    Handler.observer.start()
    HTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()  # noqa: S104
