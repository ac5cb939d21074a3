"""The library that lets random generators notice a fork (``firmware/fork-id.c``), compiled.

By the small compiler of the guest's own suite, locked like every package, and not by the host's: so
the same recipe gives the same bytes, and the same launch digest, on every machine.
"""

from __future__ import annotations

from pathlib import Path

from sevfork.process import run

SOURCE_NAME = "fork-id.c"
LIBRARY = "usr/lib/sevfork/fork-id.so"
_PRELOAD = "etc/ld.so.preload"


def install(tree: Path, source: str) -> None:
    """Compile into the tree and have its loader preload the library everywhere."""
    code = tree / "fork-id.c"
    code.write_text(source)
    (tree / LIBRARY).parent.mkdir(parents=True, exist_ok=True)
    command = ["/usr/bin/tcc", "-shared", "-nostdlib", "-o", f"/{LIBRARY}", "/fork-id.c"]
    run(["chroot", tree, *command], timeout_s=60)
    code.unlink()
    (tree / LIBRARY).chmod(0o755)
    (tree / _PRELOAD).write_text(f"/{LIBRARY}\n")
