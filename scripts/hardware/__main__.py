"""``make test-hw``; see docs/hardware.md. Exit codes: 0 passed, 1 not, 77 no such hardware here."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from scripts.hardware import machine
from scripts.hardware.report import Report, as_text, write
from scripts.hardware.running import Runner, Sevfork
from scripts.hardware.session import HARDWARE, Session, choose, missing
from scripts.hardware.steps import steps_for
from sevfork.cli.main import cli
from sevfork.technology import Technology

ROOT = Path(__file__).resolve().parents[2]
WORKLOAD = ROOT / "firmware/workloads/redis.toml"
FAILED = 1
# "Skipped" as automake and meson have it.
HARDWARE_MISSING = 77


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def examine(runner: Runner, asked: str | None, output: Path, image: Path | None = None) -> int:
    """The whole of it; returns the exit code. ``image``: one that is built already."""
    looked = runner.run(["doctor", "--json"], 300)
    if not looked.stdout:
        say(f"'sevfork doctor' said nothing:\n{looked.stderr}")
        return FAILED
    doctor = json.loads(looked.stdout)
    technology = choose(doctor, asked)
    if technology is None:
        say("\n".join(missing(doctor)))
        return HARDWARE_MISSING
    firmware = doctor["firmware"][technology.value]
    report = run(runner, technology, image, firmware)
    document = report.document(socket.gethostname())
    written = write(document, output)
    print(as_text(document))
    say(f"please send us '{written}': what names the machine is masked; it has logs of guests")
    return 0 if report.verdict == "passed" else FAILED


def verbs(group: click.Group = cli, prefix: str = "") -> Iterator[str]:
    """Those that this version of sevfork has: ``up``, ``owner adopt``."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from verbs(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}"


def run(runner: Runner, technology: Technology, image: Path | None, firmware: str) -> Report:
    steps = steps_for(technology, with_image=image is None)
    with tempfile.TemporaryDirectory(prefix="sevfork-hardware-") as work:
        session = Session(
            runner=runner,
            technology=technology,
            vm=f"hardware-{os.getpid()}",
            work=Path(work),
            image=image or Path(work, "image"),
            workload=WORKLOAD,
            firmware=firmware,
            logs=machine.serial_logs,
            say=say,
        )
        outcomes, logs = session.run(steps, verbs())
        return Report(technology, machine.describe(ROOT), outcomes, session.evidence(), logs)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make test-hw", description=__doc__)
    parser.add_argument("--technology", choices=[each.value for each in HARDWARE])
    parser.add_argument("--output", type=Path, default=ROOT / "build/hardware")
    parser.add_argument("--image", type=Path, help="an image for this technology, built elsewhere")
    given = parser.parse_args(arguments)
    sevfork = Sevfork(Path(sys.executable).parent / "sevfork")
    return examine(sevfork, given.technology, given.output, given.image)


if __name__ == "__main__":
    sys.exit(main())
