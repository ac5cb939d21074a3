"""A TLS server of one process and one thread; the key beside it is for tests and worth nothing.

Each connection is told, as JSON behind the handshake: the pid, 16 bytes from OpenSSL's generator in
hexadecimal, and whether a page that was marked wipe-on-fork still holds what was written into it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import socket
import ssl
import sys

MADV_WIPEONFORK = 18


def marked_page() -> mmap.mmap:
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    if ctypes.CDLL(None).madvise(ctypes.c_void_p(address), mmap.PAGESIZE, MADV_WIPEONFORK):
        sys.exit("the kernel does not know MADV_WIPEONFORK")
    page[:] = b"\xff" * mmap.PAGESIZE
    return page


def answer(page: mmap.mmap) -> bytes:
    said = {
        "pid": os.getpid(),
        "random": ssl.RAND_bytes(16).hex(),
        "page_kept": page[:] == b"\xff" * mmap.PAGESIZE,
        "page_wiped": page[:] == bytes(mmap.PAGESIZE),
    }
    return json.dumps(said).encode()


def main() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("/opt/workload/tls.pem")
    page = marked_page()
    with socket.create_server(("", int(sys.argv[1]))) as server:
        while True:
            connection, _ = server.accept()
            connection.settimeout(30)
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(connection, server_side=True) as secured,
            ):
                secured.sendall(answer(page))


main()
