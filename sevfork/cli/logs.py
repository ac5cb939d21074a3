"""``sevfork logs``."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from sevfork.cli.judging import (
    allow_simulated,
    certificates_option,
    completion_from,
    policy_from,
    policy_option,
    vm_to_ask,
)
from sevfork.cli.options import App, as_json, common
from sevfork.cli.owner_key import passphrase_file_option

if TYPE_CHECKING:
    from sevfork.attest.policy import Policy
    from sevfork.domain.spec import GuestSpec
    from sevfork.handshake import Signer
    from sevfork.lifecycle.job import Job
    from sevfork.lifecycle.logs import Reader
    from sevfork.owner.reading import OwnersReading
    from sevfork.verifier.statement import Complete

_ATTEST_S = 60.0


@click.command()
@click.argument("vm")
@click.option("-f", "--follow", is_flag=True, help="Go on until the workload has ended.")
@click.option(
    "-n",
    "--tail",
    metavar="LINES",
    type=click.IntRange(min=0),
    help="The last so many lines.  [default: all that is kept]",
)
@click.option(
    "--owner-key",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read as the VM's owner, by this key, what the host may not.",
)
@passphrase_file_option
@policy_option
@certificates_option
@allow_simulated
@as_json
@common
def logs(
    app: App,
    vm: str,
    follow: bool,
    tail: int | None,
    owner_key: Path | None,
    passphrase_file: Path | None,
    policy_file: BinaryIO | None,
    certificates: tuple[Path, ...],
    allow_simulated: bool,
    as_json: bool,
) -> None:
    """Show what the running VM's workload has printed: the last MiB of it.

    As it was printed, into a pipe or a file; a terminal gets it without what would drive it. With
    --owner-key the VM is attested first, and answers so that only who asks can read it.
    """
    from datetime import UTC, datetime

    from sevfork.lifecycle.logs import Reader, last_lines

    job, spec = vm_to_ask(app, vm, "be read", math.inf)
    reader = Reader(job, spec)
    if owner_key:
        from sevfork.owner.signer import open_key

        owner = open_key(owner_key, passphrase_file)
        policy = policy_from(policy_file, allow_simulated)
        complete = completion_from(certificates, datetime.now(UTC))
        reader.ask = _as_owner(job, spec, owner, policy, complete, allow_simulated)
    _show(app, reader, last_lines(reader.news(), tail), as_json, always=not follow)
    if follow:
        for data in reader.follow():
            _show(app, reader, data, as_json, always=False)


def _as_owner(
    job: Job,
    spec: GuestSpec,
    owner: Signer,
    policy: Policy,
    complete: Complete,
    allow_simulated: bool,
) -> OwnersReading:
    """Attested: the key that is to sign the answers is of a VM that descends from the owner's root.

    Raises EvidenceRejected, NotAuthentic, InsecureRefused.
    """
    from datetime import UTC, datetime

    from sevfork.deadline import Deadline
    from sevfork.handshake import owner_digest
    from sevfork.owner.asking import encoded_lineage
    from sevfork.owner.descent import of_attested
    from sevfork.owner.reading import OwnersReading
    from sevfork.verifier.attest import attest
    from sevfork.verifier.render import rejection

    brief = replace(job, deadline=Deadline.after(_ATTEST_S))
    at = datetime.now(UTC)
    attested = attest(brief, spec, policy, at, allow_simulated=allow_simulated, complete=complete)
    if not attested.verdict.passed:
        raise rejection(attested.verdict)
    of_attested(attested, encoded_lineage(brief, spec), owner_digest(owner.public))
    return OwnersReading(owner, attested.statement.status.instance_key)


def _show(app: App, reader: Reader, data: bytes, as_json: bool, *, always: bool) -> None:
    if as_json and (data or always):
        text = data.decode(errors="replace")
        told = {"vm": reader.spec.name, "text": text, "end_bytes": reader.position}
        app.output.json(told | {"lost_bytes": reader.lost_bytes})
    elif not as_json:
        app.output.foreign(data)
