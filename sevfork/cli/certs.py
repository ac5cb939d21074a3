"""``sevfork certs``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sevfork.cli.options import App, as_json, common, duration
from sevfork.cli.output import error_document

if TYPE_CHECKING:
    from sevfork.lifecycle.gathered import Gathered
    from sevfork.verifier.sources import Sources


@click.group()
def certs() -> None:
    """What evidence is checked by: certificates, revocation lists, TDX collateral."""


@certs.command()
@click.argument("target", metavar="VM|FILE")
@click.option(
    "--pccs",
    metavar="URL",
    envvar="SEVFORK_PCCS",
    help="Get Intel's collateral from this cache.  [env: SEVFORK_PCCS]",
)
@click.option("--timeout", metavar="DURATION", type=duration, default="120s", show_default=True)
@as_json
@common
def fetch(app: App, target: str, pccs: str | None, timeout: float, as_json: bool) -> None:
    """Get from AMD or Intel what evidence of a VM, or in a file, is checked by, and keep it.

    A running VM is handed it as well. What is kept serves up, fork, attest and verify, offline too.
    """
    from sevfork.verifier import http
    from sevfork.verifier.sources import Sources

    sources = Sources.of(
        os.environ, fetcher=http.http_fetcher, pccs_url=pccs, deadline_s=timeout, anew=True
    )
    gathered = _of_file(Path(target), sources) or _of_vm(app, target, sources, timeout)
    _print(app, gathered, as_json)
    if gathered.missing:
        raise gathered.missing[0]


def _of_file(file: Path, sources: Sources) -> Gathered | None:
    """None if there is no such file."""
    from sevfork.verifier.recognise import EVIDENCE_LIMIT_BYTES, recognise

    if not file.is_file():
        return None
    with file.open("rb") as content:
        return sources.gather(recognise(content.read(EVIDENCE_LIMIT_BYTES)))


def _of_vm(app: App, vm: str, sources: Sources, timeout_s: float) -> Gathered:
    from sevfork.deadline import Deadline
    from sevfork.errors import UsageError
    from sevfork.lifecycle.agents import greet_agent
    from sevfork.lifecycle.endorsing import endorse
    from sevfork.lifecycle.find import running_vm
    from sevfork.lifecycle.job import Job

    hypervisor = app.hypervisor()
    _, spec = running_vm(hypervisor, vm, "attest")
    job = Job(hypervisor, Deadline.after(timeout_s), gather=sources.gather)
    with greet_agent(job, spec) as agent:
        gathered = endorse(job, spec, agent)
    if gathered is None:
        raise UsageError(f"'{spec.name}' is simulated, which has no vendor to ask")
    return gathered


def _print(app: App, gathered: Gathered, as_json: bool) -> None:
    if as_json:
        items = [
            {"what": item.what, "path": item.path, "until": item.until and item.until.isoformat()}
            for item in gathered.items
        ]
        missing = [error_document(each) for each in gathered.missing]
        technology = gathered.evidence.technology.value
        app.output.json({"technology": technology, "items": items, "missing": missing})
        return
    for item in gathered.items:
        until = f"until {item.until:%Y-%m-%d %H:%M} UTC" if item.until else "for ever"
        app.output.data(f"{item.what}, {until}: {item.path}")
    for each in gathered.missing[1:]:
        app.output.warn(each.message)
