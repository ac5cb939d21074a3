"""Real guests for tests: one factory that always cleans up.

Guests are emulated where there is no KVM, and the secure processor is simulated. Everything is done
through the ``sevfork`` command, in a private libvirtd of the tests' own.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from scripts.client import COMMAND_TIMEOUT_S, SEVFORK, Result, Running, running
from sevfork.domain.xml import spec_from_xml
from sevfork.host import connection_choice
from sevfork.host.hypervisor import Hypervisor
from sevfork.image.base import exclusive

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = REPOSITORY / "build" / "images"
WORKLOADS = (REPOSITORY / "firmware" / "workloads", REPOSITORY / "tests" / "vm" / "workloads")


@dataclass(frozen=True)
class Vm:
    """A running guest, and the address of its first published port on this machine."""

    name: str
    uuid: str
    address: tuple[str, int]

    @classmethod
    def of(cls, described: dict[str, Any]) -> Vm:
        host, port = described["ports"][0]["address"].rsplit(":", 1)
        return cls(described["name"], described["uuid"], (host, int(port)))

    def redis(self) -> redis.Redis:
        host, port = self.address
        return redis.Redis(host, port, socket_timeout=60, single_connection_client=True)

    def get(self, path: str) -> tuple[int, bytes]:
        """HTTP GET: status and body."""
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        status, body = self.get(path)
        assert status == 200, f"{path}: {status}"
        return json.loads(body)


@dataclass
class Lab:
    """Makes guests and remembers them; ``close`` removes every one."""

    prefix: str = field(default_factory=lambda: f"t{os.getpid()}")
    made: int = 0
    built: set[str] = field(default_factory=set)

    def run(self, *words: str, check: bool = True, timeout_s: float = COMMAND_TIMEOUT_S) -> Result:
        """Run ``sevfork``; a failure shows what it printed."""
        done = subprocess.run(
            [SEVFORK, *words], capture_output=True, text=True, timeout=timeout_s, check=False
        )
        result = Result(done.returncode, done.stdout, done.stderr)
        if check and done.returncode:
            raise AssertionError(f"sevfork {' '.join(words)}: {done.returncode}\n{done.stderr}")
        return result

    def running(self, *words: str) -> AbstractContextManager[Running]:
        """Run ``sevfork`` in the background, its stderr read line by line."""
        return running(*words)

    def image(self, workload: str) -> Path:
        """The image of a workload of ours, built on first use."""
        output = IMAGES / workload
        if workload in self.built:
            return output
        (toml,) = (
            at / f"{workload}.toml" for at in WORKLOADS if (at / f"{workload}.toml").exists()
        )
        with exclusive(output.with_suffix(".lock")):  # another stream of guests wants it too
            self.run("guest", "build", "-o", str(output), "--workload", str(toml), timeout_s=900)
        self.built.add(workload)
        return output

    def name(self) -> str:
        self.made += 1
        return f"{self.prefix}-{self.made}"

    def up(self, workload: str, *options: str) -> Vm:
        """A parent, its first workload port published on any free port of this machine."""
        image = self.image(workload)
        manifest = json.loads((image / "manifest.json").read_text())
        port = manifest["workload"]["ports"][0]
        words = ("--image", str(image), "--publish", str(port), "--json", *options)
        return Vm.of(self.run("up", self.name(), *words).data["vm"])

    def fork(self, parent: Vm, *options: str) -> tuple[dict[str, Any], list[Vm]]:
        """Fork it; what the command said, and the children."""
        forked = self.run("fork", parent.name, "--json", *options).data
        return forked, [Vm.of(child) for child in forked["children"]]

    def vms(self) -> dict[str, dict[str, Any]]:
        """What ``sevfork ls`` shows of this lab's guests."""
        listed = self.run("ls", "--json").data["vms"]
        return {vm["name"]: vm for vm in listed if vm["name"].startswith(f"{self.prefix}-")}

    def leftovers(self) -> list[str]:
        """Sealed volumes, snapshots, and logs of VMs that are gone, in the storage pool."""
        with _hypervisor() as hypervisor:
            names = [volume.name for volume in hypervisor.storage.volumes()]
        alive = [f"{name}-{vm['uuid'][:8]}.log" for name, vm in self.vms().items()]
        mine = [name for name in names if name.startswith(self.prefix) and name not in alive]
        return mine + [name for name in names if name.endswith((".sealed", ".snapshot"))]

    def serial_logs(self) -> str:
        """The end of each guest's serial console."""
        with _hypervisor() as hypervisor:
            paths = [
                Path(spec_from_xml(hypervisor.xml(vm["uuid"])).console_log)
                for vm in self.vms().values()
            ]
        return "\n".join(
            f"{path.name}:\n{path.read_text(errors='replace')[-3000:]}" for path in paths
        )

    def remove(self, *vms: Vm) -> None:
        if vms:
            self.run("rm", *(vm.name for vm in vms))

    def close(self) -> None:
        names = list(self.vms())
        if names:
            self.run("rm", *names)


@contextmanager
def _hypervisor() -> Iterator[Hypervisor]:
    connection = connection_choice.connect(None, lambda _: None)
    try:
        yield connection
    finally:
        connection.close()
