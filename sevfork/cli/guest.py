"""``sevfork guest``: the measured image that guests boot."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import click

TECHNOLOGIES = ("simulated", "sev-snp", "tdx")


@click.group()
def guest() -> None:
    """The measured guest image."""


@guest.command()
@click.option("-o", "--output", metavar="DIR", required=True, type=click.Path(path_type=Path))
@click.option(
    "--workload",
    metavar="FILE",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The workload file (TOML).",
)
@click.option(
    "--technology", type=click.Choice(TECHNOLOGIES), default="simulated", show_default=True
)
@click.option(
    "--fork",
    type=click.Choice(["owner", "anyone"]),
    help="Who may fork its guests.  [default: anyone when simulated, else owner]",
)
@click.option("--locked", is_flag=True, help="Stop when a locked package version cannot be had.")
@click.option("--update-lock", is_flag=True, help="Take the newest packages and lock those.")
@click.option("--refresh", is_flag=True, help="Ask the mirror even when a cached stage would do.")
@click.option("--mirror", metavar="URL", help="Debian mirror.  [env: SEVFORK_DEBIAN_MIRROR]")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest's essentials as JSON.")
def build(
    output: Path,
    workload: Path,
    technology: str,
    fork: str | None,
    locked: bool,
    update_lock: bool,
    refresh: bool,
    mirror: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Build the image that a workload's guests boot into DIR; nothing to do when it is there."""
    from sevfork.errors import UsageError
    from sevfork.guest import build as building
    from sevfork.guest.paths import cache_directory, simulator_directory
    from sevfork.guest.paths import mirror as default_mirror
    from sevfork.guest.recipe import recipe_directory
    from sevfork.model import Technology

    if locked and update_lock:
        raise UsageError("'--locked' and '--update-lock' exclude each other")
    order = building.Order(
        output=output,
        workload=workload,
        technology=Technology(technology),
        fork=building.default_fork(Technology(technology), fork),
        firmware=recipe_directory(),
        cache=cache_directory(os.environ),
        mirror=mirror or default_mirror(os.environ),
        simulator=simulator_directory(os.environ),
        locked=locked,
        update_lock=update_lock,
        refresh=refresh,
    )
    say = _Progress(quiet)
    built = building.build(order, say)
    say(f"built '{output}'" if built else f"'{output}' is up to date")
    if as_json:
        click.echo(json.dumps(_summary(output, built)))


class _Progress:
    """A line on stderr when a phase begins, with the seconds since the start."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._started = time.monotonic()

    def __call__(self, text: str) -> None:
        if not self._quiet:
            click.echo(f"[{time.monotonic() - self._started:5.1f} s] {text}", err=True)


def _summary(output: Path, built: bool) -> dict[str, object]:
    manifest = json.loads((output / "manifest.json").read_bytes())
    keys = ("name", "technology", "root_hash", "launch_digests", "policy_digest", "moved")
    return {"schema": 1, "image": str(output), "built": built} | {k: manifest[k] for k in keys}
