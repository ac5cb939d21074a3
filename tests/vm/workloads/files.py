"""Files of every kind, and SQLite databases under load, looked at from inside.

GET /files       device and inode number of every path and open file: when they were noted, and now
GET /note        note them, and answer with the same
GET /databases   for each database: how old and new connections find it, and what went wrong
"""

from __future__ import annotations

import json
import mmap
import os
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

HOME = Path("/var/lib/workload")
JOURNALS = ("delete", "wal")
WRITERS = 2
PATIENCE_S = 60
SPARSE_SIZE = 1 << 30
IMAGE_FILES = ("/opt/workload/settings", "/opt/workload/untouched")

Numbers = dict[str, tuple[int, int]]


class Database:
    """Written to by several threads, each with a connection that it never closes."""

    def __init__(self, journal: str) -> None:
        self.path, self.journal = HOME / f"{journal}.db", journal
        self.errors: list[str] = []
        with self.connect() as first:
            first.execute("CREATE TABLE IF NOT EXISTS rows (writer, number, filling)")
        for writer in range(WRITERS):
            threading.Thread(target=self._write, args=(writer,), daemon=True).start()

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=PATIENCE_S, isolation_level=None)
        connection.execute(f"PRAGMA journal_mode={self.journal}")
        return connection

    def _write(self, writer: int) -> None:
        try:
            connection = self.connect()
            for number in range(1, sys.maxsize):
                connection.execute("BEGIN IMMEDIATE")
                row = (writer, number, os.urandom(300))
                connection.execute("INSERT INTO rows VALUES (?, ?, ?)", row)
                connection.execute("COMMIT")
                time.sleep(0.01)
        except sqlite3.Error as exc:
            self.errors.append(f"writer {writer}: {exc}")

    def state(self) -> dict[str, object]:
        connection = self.connect()
        try:
            (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
            counted = connection.execute(
                "SELECT writer, count(*), max(number) FROM rows GROUP BY writer"
            ).fetchall()
            connection.execute("INSERT INTO rows VALUES ('new connection', 1, '')")
            connection.execute("DELETE FROM rows WHERE writer = 'new connection'")
        except sqlite3.Error as exc:
            self.errors.append(f"new connection: {exc}")
            return {"errors": self.errors}
        finally:
            connection.close()
        return {"integrity": integrity, "rows": counted, "errors": self.errors}


class Files:
    """Some of each kind; what is open stays open."""

    def __init__(self) -> None:
        self._open: list[object] = []
        (HOME / "kept").write_text("kept")
        (HOME / "second-name").hardlink_to(HOME / "kept")
        (HOME / "symbolic").symlink_to("kept")
        (HOME / "directory").mkdir()
        (HOME / "kept").rename(HOME / "directory" / "kept")
        os.mkfifo(HOME / "fifo")
        with Path("/opt/workload/settings").open("a") as settings:
            settings.write("# changed by the workload\n")
        for path in (HOME / "second-name", *map(Path, IMAGE_FILES)):
            self._open.append(path.open())  # noqa: SIM115  # it stays open
        self._open += [self._deleted("deleted", 10), self._deleted("also-deleted", 100_000)]
        self._open.append(self._twice_deleted())
        self._sparse()

    def _deleted(self, name: str, size: int) -> object:
        file = (HOME / name).open("w+b")
        file.write(b"x" * size)
        file.flush()
        (HOME / name).unlink()
        return file

    def _twice_deleted(self) -> object:
        """Deleted under the name that it was opened by, and under another not."""
        file = (HOME / "opened-as").open("w+b")
        (HOME / "still-named").hardlink_to(HOME / "opened-as")
        (HOME / "opened-as").unlink()
        return file

    def _sparse(self) -> None:
        file = (HOME / "sparse").open("w+b")
        file.truncate(SPARSE_SIZE)
        file.seek(SPARSE_SIZE // 2)
        file.write(b"m" * (1 << 20))
        file.flush()
        (HOME / "sparse-link").hardlink_to(HOME / "sparse")
        self._open += [file, mmap.mmap(file.fileno(), SPARSE_SIZE)]


def numbers() -> Numbers:
    """By path or by descriptor; not of rollback journals, which are new with each transaction."""
    found = {}
    for name, status in (*paths(), *descriptors()):
        if not name.endswith("-journal"):
            found[name] = (status.st_dev, status.st_ino)
    return found


def paths() -> Iterator[tuple[str, os.stat_result]]:
    for top in ("/etc", "/opt", "/run", "/usr/bin", "/var"):
        for directory, directories, files in os.walk(top):
            for name in (".", *directories, *files):
                try:
                    path = os.path.join(directory, name)  # noqa: PTH118  # thousands
                    yield path, os.lstat(path)
                except FileNotFoundError:
                    continue


def descriptors() -> Iterator[tuple[str, os.stat_result]]:
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # names, of which one is gone soon
        try:
            status, target = os.fstat(int(name)), str(Path("/proc/self/fd", name).readlink())
        except OSError:
            continue
        if (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)) and "/proc" not in target:
            yield f"{name}: {target.removesuffix(' (deleted)')}", status


class Handler(BaseHTTPRequestHandler):
    noted: Numbers = {}
    databases: dict[str, Database] = {}

    def do_GET(self) -> None:
        if self.path == "/note":
            type(self).noted = numbers()
        if self.path == "/databases":
            self._answer({name: database.state() for name, database in self.databases.items()})
        else:
            sparse = (HOME / "sparse").stat()
            stored = {"size": sparse.st_size, "stored": sparse.st_blocks * 512}
            self._answer({"noted": self.noted, "now": numbers(), "sparse": stored})

    def _answer(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    Handler.databases = {journal: Database(journal) for journal in JOURNALS}
    everything = Files()
    HTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()  # noqa: S104
