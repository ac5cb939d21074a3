"""Holds all of them, and says over HTTP how they are.

GET /check        JSON: name to what is wrong with the object, or null
GET /open/NAME    make one that is only made when it is asked for: 200, or 500 and why not
GET /close        let that one go
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import FrameType

from . import ASKED_FOR, HELD
from .registry import Check, Maker

INTERRUPT, PATIENCE_S = signal.SIGVTALRM, 3


def make(maker: Maker) -> Check:
    """The check of a new object; of one that cannot be made, a check that says why."""
    try:
        return maker()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        reason = f"not made: {error!r}"

        def never_made() -> None:
            raise AssertionError(reason)

        return never_made


def fault(check: Check) -> str | None:
    """What is wrong; a check that waits for what was lost is interrupted."""
    watch = threading.Timer(
        PATIENCE_S, signal.pthread_kill, (threading.main_thread().ident, INTERRUPT)
    )
    watch.start()
    try:
        check()
    except Exception as error:  # noqa: BLE001 - as above
        return repr(error)
    finally:
        watch.cancel()
        watch.join()
    return None


def interrupted(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"nothing came in {PATIENCE_S} s")


class Handler(BaseHTTPRequestHandler):
    checks: dict[str, Check]

    def do_GET(self) -> None:
        verb, _, name = self.path[1:].partition("/")
        if verb == "open":
            self.checks["asked for"] = make(ASKED_FOR[name])
        elif verb == "close":
            self.checks.pop("asked for", None)
        self._answer(json.dumps({name: fault(check) for name, check in self.checks.items()}))

    def _answer(self, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    signal.signal(INTERRUPT, interrupted)
    server = HTTPServer(("0.0.0.0", int(sys.argv[1])), Handler)  # noqa: S104
    Handler.checks = {name: make(maker) for name, maker in HELD.items()}
    server.serve_forever()
