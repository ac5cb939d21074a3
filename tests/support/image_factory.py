"""A guest image on disk that is right in every formal respect, and boots nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sevfork.simulated.launch_digest import simulated_launch_digest

CMDLINE = "console=ttyS0 sevfork.root=1,a,b"
CONTENTS = {"vmlinuz": b"kernel" * 100, "initrd.img": b"initrd" * 50, "root.img": b"root" * 5000}


def manifest(contents: dict[str, bytes] = CONTENTS) -> dict[str, Any]:
    digests = {name: hashlib.sha384(data).digest() for name, data in contents.items()}
    return {
        "schema": 1,
        "name": "redis",
        "technology": "simulated",
        "kernel_cmdline": CMDLINE,
        "cpu_model": "maximum",
        "files": {
            name: {"sha384": digests[name].hex(), "size": len(data)}
            for name, data in contents.items()
        },
        "workload": {"name": "redis", "ports": [6379]},
        "launch_digests": {
            str(vcpus): simulated_launch_digest(
                digests["vmlinuz"], digests["initrd.img"], CMDLINE.encode(), vcpus, "maximum"
            ).hex()
            for vcpus in (1, 2)
        },
        "fork": "anyone",
        "root_hash": "ab" * 32,
        "policy_digest": "cd" * 48,
        "packages": {"criu": "4.2.1-1"},
        "moved": [],
        "epoch": 1700000000,
        "inputs": "ef" * 48,
        "something_new": True,
    }


def write_image(directory: Path, described: dict[str, Any] | None = None) -> Path:
    directory.mkdir(exist_ok=True)
    for name, data in CONTENTS.items():
        (directory / name).write_bytes(data)
    (directory / "manifest.json").write_text(json.dumps(described or manifest()))
    return directory
