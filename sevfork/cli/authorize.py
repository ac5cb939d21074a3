"""``sevfork owner authorize``."""

from __future__ import annotations

from collections.abc import Callable
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
)
from sevfork.cli.lineage import lineage_from
from sevfork.cli.options import App, as_json, common, duration
from sevfork.cli.owner_key import owners_key

if TYPE_CHECKING:
    from datetime import datetime

    from sevfork.owner.authorisation import Authorised
    from sevfork.owner.signer import Signer

_MOST_CHILDREN = 2**32 - 1


def chip_list(text: str) -> tuple[bytes, ...]:
    """Chip ids (SNP, 64 bytes) or PPIDs (TDX, 16 bytes) in hexadecimal, with commas between."""
    from sevfork.handshake.token import CHIP_SIZES, MAX_CHIPS

    try:
        chips = tuple(bytes.fromhex(each) for each in text.split(","))
    except ValueError as exc:
        raise click.BadParameter(f"'{text}' is no list of chips in hexadecimal") from exc
    if not set(map(len, chips)) <= set(CHIP_SIZES):
        raise click.BadParameter("a chip id has 64 bytes, and a PPID 16: 'sevfork attest' has them")
    if len(chips) > MAX_CHIPS:
        raise click.BadParameter(f"there are at most {MAX_CHIPS} chips")
    return chips


@click.command()
@click.argument("vm_or_file", metavar="VM|FILE")
@click.option(
    "--children",
    metavar="N",
    type=click.IntRange(1, _MOST_CHILDREN),
    required=True,
    help="How many children, in one fork.",
)
@click.option("--standing", is_flag=True, help="In any number of forks and pools, child by child.")
@click.option(
    "--valid",
    metavar="DURATION",
    type=duration,
    help="For how long: a hint, since a guest has its clock from its host.  [default: for ever]",
)
@click.option(
    "--chips",
    metavar="HEX,...",
    type=chip_list,
    help="Where children may run.  [default: wherever the VM's policy allows]",
)
@click.option(
    "-o",
    "--output",
    metavar="TOKEN",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
)
@owners_key
@policy_option
@certificates_option
@allow_simulated
@timeout_of_a_minute
@as_json
@common
def authorize(
    app: App,
    vm_or_file: str,
    children: int,
    standing: bool,
    valid: float | None,
    chips: tuple[bytes, ...] | None,
    output: Path,
    owner: Callable[[], Signer],
    policy_file: BinaryIO | None,
    certificates: tuple[Path, ...],
    allow_simulated: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Allow so many children of a VM that descends from a root of yours: sign a token for it.

    Its evidence and its descent are checked first, as 'sevfork lineage' does: of a running VM, or
    of a file that 'sevfork lineage --save' wrote. The token is good until the VM ends.
    """
    from datetime import UTC, datetime

    from sevfork.handshake.token import Allowance
    from sevfork.owner.authorisation import authorise

    at = datetime.now(UTC)
    complete = completion_from(certificates, at)
    saved = lineage_from(app, vm_or_file, timeout, complete)
    policy = policy_from(policy_file, allow_simulated)
    allowed = Allowance(children, standing, _end(at, valid), chips or ())
    signed = authorise(saved, owner(), policy, at, allowed, allow_simulated=allow_simulated)
    signed.write(output)
    _tell(app, signed, as_json)


def _end(at: datetime, valid_s: float | None) -> int:
    from datetime import timedelta

    from sevfork.handshake.token import FOREVER

    try:
        return int((at + timedelta(seconds=valid_s)).timestamp()) if valid_s else FOREVER
    except OverflowError as exc:
        raise click.BadParameter("no time is so far away", param_hint="--valid") from exc


def _tell(app: App, signed: Authorised, as_json: bool) -> None:
    token, allowed = signed.token, signed.token.allowed
    until = _time(allowed.not_after) if allowed.not_after else None
    if as_json:
        app.output.json(
            {
                "vm": signed.vm,
                "instance_key": token.instance_key.hex(),
                "policy_digest": token.policy_digest.hex(),
                "serial": f"{token.serial:016x}",
                "children": allowed.children,
                "standing": allowed.standing,
                "not_after": until.isoformat() if until else None,
                "chips": [chip.hex() for chip in allowed.chips],
            }
        )
        return
    spent = "in any number of forks" if allowed.standing else "in one fork"
    children = f"{allowed.children} child{'' if allowed.children == 1 else 'ren'}"
    where = f", on {len(allowed.chips)} chip(s)" if allowed.chips else ""
    app.output.data(f"authorised {children} of '{signed.vm}', {spent}{where}")
    if until:
        app.output.note(
            f"it ends {until:%Y-%m-%d %H:%M:%S} UTC by the VM's own clock, which its host sets: "
            "a hint, no guarantee"
        )


def _time(seconds: int) -> datetime:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC)
