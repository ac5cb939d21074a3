"""Holds an io_uring, and answers whatever is asked over HTTP with an empty 200."""

from __future__ import annotations

import ctypes
import os
import socket
import sys

IO_URING_SETUP = 425  # the same number on every architecture
PARAMETERS_SIZE = 120  # struct io_uring_params


def open_ring() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    parameters = ctypes.create_string_buffer(PARAMETERS_SIZE)
    descriptor: int = libc.syscall(IO_URING_SETUP, 8, parameters)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return descriptor


if __name__ == "__main__":
    ring = open_ring()
    with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as server:  # noqa: S104
        while True:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
