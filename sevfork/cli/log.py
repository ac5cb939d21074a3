"""``sevfork log``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from sevfork.cli import lineage as lineage_command
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
    from sevfork.attest.policy import Policy
    from sevfork.attest.verdict import Verdict
    from sevfork.domain.spec import GuestSpec
    from sevfork.handshake.audit_entries import Deed, Entry, Recipient
    from sevfork.lifecycle.job import Job
    from sevfork.owner.descent import Descent
    from sevfork.verifier.audit import Reading
    from sevfork.verifier.statement import Complete

_COLUMNS = ("NUMBER", "TIME", "WHAT", "FORK", "VM")
_SHOWN_BYTES = 8


@dataclass(frozen=True)
class _Whose:
    """Who has signed a record: by fresh evidence, and by the lineage where an owner was named."""

    verdict: Verdict
    descent: Descent | None


@click.command()
@click.argument("vm")
@click.option("--verify", is_flag=True, help="Check by fresh evidence whose record it is.")
@click.option(
    "--owner",
    metavar="PUB",
    type=owner_key,
    help="The same, and that the VM descends from this owner's root.",
)
@policy_option
@certificates_option
@allow_simulated
@timeout_of_a_minute
@as_json
@common
def log(
    app: App,
    vm: str,
    verify: bool,
    owner: bytes | None,
    policy_file: BinaryIO | None,
    certificates: tuple[Path, ...],
    allow_simulated: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Show what the running VM has captured, granted, activated and refused, in its own words.

    That nothing is missing, moved or changed is checked always; whose word it is, with --verify.
    """
    from sevfork.verifier.audit import read_audit

    job, spec = vm_to_ask(app, vm, "show its audit record", timeout)
    reading, whose = read_audit(job, spec), None
    if verify or owner:
        policy = policy_from(policy_file, allow_simulated)
        complete = completion_from(certificates, datetime.now(UTC))
        whose = _whose(job, spec, reading, policy, owner, allow_simulated, complete)
    if as_json:
        app.output.json(_document(reading, whose))
    else:
        _print(app, reading, whose)


def _whose(
    job: Job,
    spec: GuestSpec,
    reading: Reading,
    policy: Policy,
    owner: bytes | None,
    allow_simulated: bool,
    complete: Complete,
) -> _Whose:
    """Raises EvidenceRejected, NotAuthentic, InsecureRefused."""
    from sevfork.owner.asking import encoded_lineage
    from sevfork.owner.descent import of_attested
    from sevfork.verifier.attest import attest
    from sevfork.verifier.render import rejection

    attested = attest(
        job,
        spec,
        policy,
        datetime.now(UTC),
        allow_simulated=allow_simulated,
        complete=complete,
    )
    if not attested.verdict.passed:
        raise rejection(attested.verdict)
    reading.require_signed_by(attested.statement)
    if owner is None:
        return _Whose(attested.verdict, None)
    encoded = encoded_lineage(job, spec)
    reading.require_place(encoded)
    return _Whose(attested.verdict, of_attested(attested, encoded, owner))


def _print(app: App, reading: Reading, whose: _Whose | None) -> None:
    app.output.table(_COLUMNS, [_row(entry) for entry in reading.record.entries])
    for kind, span in reading.record.head.spans.items():
        if span.condensed.count:
            left_out, count = span.condensed.count, span.last.count
            app.output.note(f"{kind.name.lower()}: the oldest {left_out} of {count} are condensed")
    if whose is None:
        key = _short(reading.record.head.instance_key)
        app.output.note(f"signed by instance {key}; --verify checks whose that is")
    else:
        app.output.data(_passed(reading, whose))


def _passed(reading: Reading, whose: _Whose) -> str:
    total = sum(span.last.count for span in reading.record.head.spans.values())
    lineage = " and in the owner's lineage" if whose.descent else ""
    simulated = "" if whose.verdict.technology.confidential else " (simulated, not confidential)"
    signer = f"the key that signed them is in fresh evidence{lineage}{simulated}"
    return f"PASSED: {total} entries, none missing; {signer}"


def _row(entry: Entry) -> list[str]:
    at = datetime.fromtimestamp(entry.wall_ns / 1e9, UTC)
    return [str(entry.number), at.isoformat(timespec="milliseconds"), *_described(entry.deed)]


def _described(deed: Deed) -> tuple[str, str, str]:
    """What was done, in which fork, and to which VM."""
    from sevfork.handshake.audit_entries import (
        ChildActivated,
        KeysGranted,
        PlaceTaken,
        RequestRefused,
        StateCaptured,
    )

    match deed:
        case PlaceTaken(generation=0):
            adopted = ", adopted by its owner" if deed.owned else ""
            return f"generation 0, a root{adopted}", "-", "-"
        case PlaceTaken():
            fork = f"{_short(deed.fork_id)}/{deed.child_index}"
            return f"generation {deed.generation}, a child", fork, "-"
        case StateCaptured():
            size = f"{deed.state_bytes / 2**20:.1f} MiB"
            if any(deed.fork_id):
                return f"captured {size}", _short(deed.fork_id), "-"
            return f"snapshot updated by {size}", "-", "-"
        case RequestRefused():
            return f"refused {deed.request} ({deed.exit_code}): {deed.reason}", "-", "-"
        case KeysGranted():
            return "granted, to hold" if deed.warm else "granted", *_place(deed.recipient)
        case ChildActivated():
            return "activated", *_place(deed.recipient)


def _place(recipient: Recipient) -> tuple[str, str]:
    fork = f"{_short(recipient.fork_id)}/{recipient.child_index}"
    return fork, _short(recipient.instance_key)


def _document(reading: Reading, whose: _Whose | None) -> dict[str, object]:
    head = reading.record.head
    return {
        "vm": reading.vm,
        "instance_key": head.instance_key.hex(),
        "nonce": head.nonce.hex(),
        "time_s": head.wall_ns / 1e9,
        "chains": {
            kind.name.lower(): {
                "count": span.last.count,
                "hash": span.last.hash.hex(),
                "condensed": span.condensed.count,
            }
            for kind, span in head.spans.items()
        },
        "entries": [_entry(entry) for entry in reading.record.entries],
        "signed_head": reading.audited.head.hex(),
        "encoded_entries": reading.audited.entries.hex(),
        "evidence": "passed" if whose else None,
        "technology": whose.verdict.technology.value if whose else None,
        "lineage": lineage_command.document(whose.descent) if whose and whose.descent else None,
    }


def _entry(entry: Entry) -> dict[str, object]:
    from msgspec.structs import asdict

    fields = asdict(entry.deed)
    if "recipient" in fields:
        fields |= asdict(fields.pop("recipient"))
    shown = {name: each.hex() if isinstance(each, bytes) else each for name, each in fields.items()}
    counted = {"number": entry.number, "position": entry.position, "time_s": entry.wall_ns / 1e9}
    return counted | {"what": entry.kind.name.lower()} | shown


def _short(value: bytes) -> str:
    return value.hex()[: 2 * _SHOWN_BYTES]
