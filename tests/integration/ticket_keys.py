"""Run in a guest's root: prints, as JSON, how a process's keys of session tickets change.

A fork of the VM is what it is to a process: the pages that are marked wipe-on-fork are zero. Every
function is found as a program finds it, so that what is preloaded stands before libssl.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
from pathlib import Path

_GET_KEYS, _SET_KEYS, _SIZE = 58, 59, 80

ctypes.CDLL("libssl.so.3", ctypes.RTLD_GLOBAL)
_PROGRAM = ctypes.CDLL(None)


def function(
    name: str, *arguments: type, result: type = ctypes.c_void_p
) -> ctypes._NamedFuncPointer:
    found = _PROGRAM[name]
    found.argtypes, found.restype = arguments, result
    return found


_context = ctypes.c_void_p
_method = function("TLS_server_method")
_ssl_ctx_new = function("SSL_CTX_new", ctypes.c_void_p)
_ssl_new = function("SSL_new", _context)
_control = function(
    "SSL_CTX_ctrl", _context, ctypes.c_int, ctypes.c_long, ctypes.c_char_p, result=ctypes.c_long
)


class Server:
    """One SSL_CTX."""

    def __init__(self) -> None:
        self._context = _ssl_ctx_new(_method())

    def accept(self) -> str:
        """The keys in hexadecimal after one connection more: a name and two keys."""
        assert _ssl_new(self._context)
        return self.keys()

    def keys(self) -> str:
        buffer = ctypes.create_string_buffer(_SIZE)
        assert _control(self._context, _GET_KEYS, _SIZE, buffer) == 1
        return buffer.raw.hex()

    def set_keys(self, keys: bytes) -> None:
        assert _control(self._context, _SET_KEYS, _SIZE, keys) == 1


def forked_with_the_vm() -> None:
    smaps = Path("/proc/self/smaps").read_text()
    for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", smaps, flags=re.MULTILINE):
        if re.search(r"^VmFlags:.* wf", mapping, re.MULTILINE):
            start, end = (int(each, 16) for each in mapping.split(maxsplit=1)[0].split("-"))
            ctypes.memset(start, 0, end - start)


def in_a_child(server: Server, *, with_the_vm: bool) -> str:
    """The keys after a connection in a child of fork(2), and perhaps of the VM's fork too."""
    reading, writing = os.pipe()
    if not os.fork():
        if with_the_vm:
            forked_with_the_vm()
        os.write(writing, server.accept().encode())
        os._exit(0)
    os.wait()
    return os.read(reading, 4 * _SIZE).decode()


def main() -> None:
    server, untouched = Server(), Server()
    told = {"made": server.keys(), "before": server.accept()}
    told["fork(2)"] = in_a_child(server, with_the_vm=False)
    told["sibling"] = in_a_child(server, with_the_vm=True)
    told["other sibling"] = in_a_child(server, with_the_vm=True)
    told["untouched made"] = untouched.keys()
    forked_with_the_vm()
    told["untouched"] = untouched.accept()
    told["child"] = server.accept()
    told["child again"] = server.accept()
    told["fork(2) of child"] = in_a_child(server, with_the_vm=False)
    forked_with_the_vm()
    told["grandchild"] = server.accept()
    server.set_keys(b"\x55" * _SIZE)
    forked_with_the_vm()
    told["of its own"] = server.accept()
    json.dump(told, sys.stdout)


main()
