"""What QEMU and libvirt have for keeping a VM's state: how long the same guest stands still."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.bench.guests import waiting

_TIMEOUT_S = 300


class PeerFailed(Exception):
    """It does not work here; the message is the peer's own."""


def background_snapshot_ms(uri: str, vm: dict[str, Any]) -> float:
    """A client's longest wait while QEMU streams a background snapshot to nowhere."""
    capability = {"capability": "background-snapshot", "state": True}
    _monitor(uri, vm, "migrate-set-capabilities", {"capabilities": [capability]})
    with _sink() as port, waiting(vm) as client:
        _monitor(uri, vm, "migrate", {"uri": f"tcp:127.0.0.1:{port}"})
        _wait_for_migration(uri, vm)
    return client.longest_ms


def save_and_restore_s(uri: str, vm: dict[str, Any]) -> float:
    """``virsh save`` and ``restore``, all of which it stands still. Published ports are lost."""
    with tempfile.TemporaryDirectory() as scratch:
        state = Path(scratch, "state")
        began = time.monotonic()
        _virsh(uri, "save", vm["uuid"], str(state))
        _virsh(uri, "restore", str(state))
        return time.monotonic() - began


def _virsh(uri: str, *words: str) -> str:
    argv = ["virsh", "-c", uri, *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    if done.returncode:
        raise PeerFailed(done.stderr.strip().removeprefix("error: ").splitlines()[0])
    return done.stdout


def _monitor(uri: str, vm: dict[str, Any], command: str, arguments: dict[str, object]) -> Any:
    request = json.dumps({"execute": command, "arguments": arguments})
    answer = json.loads(_virsh(uri, "qemu-monitor-command", vm["uuid"], request))
    if "error" in answer:
        raise PeerFailed(answer["error"]["desc"])
    return answer["return"]


def _wait_for_migration(uri: str, vm: dict[str, Any]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        status = _monitor(uri, vm, "query-migrate", {})
        if status.get("status") == "completed":
            return
        if status.get("status") in ("failed", "cancelled"):
            raise PeerFailed(status.get("error-desc", "the background snapshot failed"))
        time.sleep(0.2)
    raise PeerFailed("the background snapshot did not end in time")


@contextmanager
def _sink() -> Iterator[int]:
    """A port that takes everything and keeps nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_swallow, args=(server,), daemon=True).start()
        yield server.getsockname()[1]


def _swallow(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        while connection.recv(1 << 20):
            pass
