"""``sevfork guest``: the measured image that guests boot."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import click

from sevfork.cli.options import App, as_json, common

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
@as_json
@common
def build(
    app: App,
    output: Path,
    workload: Path,
    technology: str,
    fork: str | None,
    locked: bool,
    update_lock: bool,
    refresh: bool,
    mirror: str | None,
    as_json: bool,
) -> None:
    """Build the image that a workload's guests boot into DIR; nothing to do when it is there."""
    from sevfork.errors import UsageError
    from sevfork.image import build as building
    from sevfork.image.paths import cache_directory
    from sevfork.image.paths import mirror as default_mirror
    from sevfork.image.recipe import recipe_directory
    from sevfork.simulated.paths import simulator_directory
    from sevfork.technology import Technology

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
    started = time.monotonic()

    def say(text: str) -> None:
        app.output.note(f"[{time.monotonic() - started:5.1f} s] {text}")

    built = building.build(order, say)
    say(f"built '{output}'" if built else f"'{output}' is up to date")
    if as_json:
        app.output.json(_summary(output, built))


def _summary(output: Path, built: bool) -> dict[str, object]:
    manifest = json.loads((output / "manifest.json").read_bytes())
    keys = ("name", "technology", "root_hash", "launch_digests", "policy_digest", "moved")
    return {"image": str(output), "built": built} | {k: manifest[k] for k in keys}
