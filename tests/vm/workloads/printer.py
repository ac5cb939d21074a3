"""Prints what it is asked to, in the ways in which programs print."""

import os
import signal
import stat
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import unquote

FAIL = Path("/var/lib/workload/fail")


class Handler(BaseHTTPRequestHandler):
    """GET /say/TEXT, /error/TEXT, /reopen/PATH/TEXT, /much/BYTES, /fail, /exit/STATUS, /streams."""

    def do_GET(self) -> None:
        verb, _, rest = unquote(self.path).lstrip("/").partition("/")
        answer = getattr(self, f"on_{verb}")(rest) or "done"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(answer).encode())

    def on_say(self, text: str) -> None:
        print(text, flush=True)

    def on_error(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def on_reopen(self, text: str) -> None:
        for path in ("/dev/stdout", "/proc/self/fd/1", "/dev/stderr"):
            with Path(path).open("a") as file:
                file.write(f"{text} by {path}\n")

    def on_much(self, size: str) -> None:
        subprocess.run(["head", "-c", size, "/dev/zero"], check=True)
        print("\nthat was much", flush=True)

    def on_fail(self, _: str) -> None:
        FAIL.touch()

    def on_mend(self, _: str) -> None:
        FAIL.unlink()

    def on_exit(self, status: str) -> None:
        print("leaving", flush=True)
        os._exit(int(status))

    def on_streams(self, _: str) -> str:
        kinds = [stat.S_IFMT(os.fstat(number).st_mode) == stat.S_IFIFO for number in (0, 1, 2)]
        return f"{kinds} {[os.isatty(number) for number in (0, 1, 2)]}"

    def log_message(self, *_: object) -> None:
        """It prints what it is asked to, and nothing else."""


def leave(number: int, _frame: object) -> None:
    """A first process of a container is ended by no signal that it does not handle."""
    print("told to leave", flush=True)
    os._exit(0)


signal.signal(signal.SIGTERM, leave)
print("ready to print", flush=True)
HTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
