"""``sevfork lineage``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from sevfork.cli.judging import (
    allow_simulated,
    certificates_option,
    completion_from,
    policy_from,
    policy_option,
    timeout_of_a_minute,
    vm_to_ask,
)
from sevfork.cli.options import App, as_json, common, owner_key

if TYPE_CHECKING:
    from sevfork.owner.descent import Descent, Member
    from sevfork.owner.documents import SavedLineage
    from sevfork.verifier.statement import Complete

_SHOWN_BYTES = 8


@click.command()
@click.argument("vm_or_file", metavar="VM|FILE")
@click.option(
    "--owner",
    metavar="PUB",
    required=True,
    type=owner_key,
    help="The owner's public key: a file, or the text of one.",
)
@policy_option
@certificates_option
@click.option(
    "--save",
    metavar="F",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep what was checked, to check it again on any machine.",
)
@allow_simulated
@timeout_of_a_minute
@as_json
@common
def lineage(
    app: App,
    vm_or_file: str,
    owner: bytes,
    policy_file: BinaryIO | None,
    certificates: tuple[Path, ...],
    save: Path | None,
    allow_simulated: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Check whom a VM descends from, back to its owner: a running VM, or a file that --save wrote.

    Signatures, and the evidence of the VM and of those of its ancestors that answer. Of a file
    nobody can tell how old it is.
    """
    from datetime import UTC, datetime

    from sevfork.owner.descent import checked

    at = datetime.now(UTC)
    complete = completion_from(certificates, at)
    saved = lineage_from(app, vm_or_file, timeout, complete)
    policy = policy_from(policy_file, allow_simulated)
    descent = checked(saved, owner, policy, at, allow_simulated=allow_simulated)
    if save:
        saved.write(save)
    if as_json:
        app.output.json({"vm": saved.vm, **document(descent)})
    else:
        app.output.chain(lines(descent))
        app.output.data(passed(descent))


def lineage_from(app: App, vm_or_file: str, timeout_s: float, complete: Complete) -> SavedLineage:
    """Not checked yet: from the file of that name, or else from the VM."""
    from sevfork.owner.documents import SavedLineage

    if Path(vm_or_file).is_file():
        return SavedLineage.read(Path(vm_or_file)).completed(complete)
    from sevfork.owner.asking import lineage_of

    job, spec = vm_to_ask(app, vm_or_file, "tell whom it descends from", timeout_s)
    return lineage_of(job, spec, app.output.note).completed(complete)


def lines(descent: Descent) -> list[str]:
    """From the owner to the VM."""
    from sevfork.owner.public_key import openssh_line

    return [f"owner {openssh_line(descent.owner_key)}", *map(_line, descent.members)]


def passed(descent: Descent) -> str:
    """The last line."""
    verdicts = [member.verdict for member in descent.members if member.verdict]
    forks = len(descent.members) - 1
    distance = f"{forks} fork{'' if forks == 1 else 's'} from the owner's root"
    evidence = f"evidence of {len(verdicts)} of {len(descent.members)} VMs"
    simulated = any(not verdict.technology.confidential for verdict in verdicts)
    return f"PASSED: {distance}, {evidence}{' (simulated, not confidential)' if simulated else ''}"


def document(descent: Descent) -> dict[str, object]:
    """As it stands in JSON output (docs/json.md)."""
    return {
        "owner_key": descent.owner_key.hex(),
        "members": [_member(member) for member in descent.members],
    }


def _line(member: Member) -> str:
    name = f" '{member.vm}'" if member.vm else ""
    instance = f"instance {_short(member.instance_key)}"
    evidence = "evidence passed" if member.verdict else "no evidence, its child has verified it"
    if member.certificate is None:
        return f"root{name}: {instance}, {evidence}"
    fork = member.certificate
    place = f"child {fork.child_index} of fork {_short(fork.fork_id)}"
    manifest = f"manifest {_short(fork.manifest_digest)}"
    return f"generation {member.generation}{name}: {place}, {manifest}, {instance}, {evidence}"


def _member(member: Member) -> dict[str, object]:
    fork = member.certificate
    return {
        "vm": member.vm,
        "generation": member.generation,
        "instance_key": member.instance_key.hex(),
        "fork_id": fork.fork_id.hex() if fork else None,
        "index": fork.child_index if fork else None,
        "manifest_digest": fork.manifest_digest.hex() if fork else None,
        "evidence": "passed" if member.verdict else None,
        "technology": member.verdict.technology.value if member.verdict else None,
    }


def _short(value: bytes) -> str:
    return value.hex()[: 2 * _SHOWN_BYTES]
