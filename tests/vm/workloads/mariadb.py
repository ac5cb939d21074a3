"""Starts MariaDB as Debian does, and inserts a row for each HTTP request."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time


class Client:
    """One connection of Debian's own client, which prints a tab-separated line a row."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client = subprocess.Popen(
            ["/usr/bin/mariadb", "--batch", "--skip-column-names", "--unbuffered"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, statements: str) -> list[str]:
        """The fields of the one row that the statements give."""
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        with self._lock:
            self._client.stdin.write(statements + "\n")
            self._client.stdin.flush()
            return self._client.stdout.readline().rstrip("\n").split("\t")


def serve(port: int, client: Client) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            client.ask("INSERT INTO forks.entries VALUES (NULL, REPEAT('x', 2000)); SELECT 1;")
            rows, aio = client.ask("SELECT COUNT(*), @@innodb_use_native_aio FROM forks.entries;")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"rows": int(rows), "native_aio": aio}).encode())

        def log_message(self, *_: object) -> None:
            pass

    http.server.ThreadingHTTPServer(("", port), Handler).serve_forever()


if __name__ == "__main__":
    subprocess.Popen(["/usr/sbin/mariadbd"])
    while subprocess.run(["/usr/bin/mariadb-admin", "ping"], capture_output=True).returncode:
        time.sleep(0.5)
    client = Client()
    client.ask(
        "CREATE DATABASE forks; CREATE TABLE forks.entries (id INT AUTO_INCREMENT PRIMARY KEY, "
        "text VARCHAR(2000)) ENGINE = InnoDB; SELECT 1;"
    )
    serve(int(sys.argv[1]), client)
