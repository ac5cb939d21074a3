"""``sevfork policy``."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from sevfork.cli.guest import TECHNOLOGIES
from sevfork.cli.judging import simulated_roots
from sevfork.cli.options import App, as_json, common


@click.command()
@click.option(
    "--for",
    "purpose",
    type=click.Choice(["verify", "image"]),
    default="verify",
    show_default=True,
    help="For 'verify --policy', or what an image is built with.",
)
@click.option(
    "--technology",
    "names",
    type=click.Choice(TECHNOLOGIES),
    multiple=True,
    help="May be given again for 'verify'.  [default: sev-snp and tdx; an image: simulated]",
)
@as_json
@common
def policy(app: App, purpose: str, names: tuple[str, ...], as_json: bool) -> None:
    """Print a policy with a comment on every field, to begin with.

    For 'verify' it is what 'sevfork verify' judges by without one: genuine, not debuggable, any
    launch (list your measurement or registers). For 'image' it is what 'guest build' puts in.
    """
    from sevfork.errors import UsageError
    from sevfork.technology import Technology
    from sevfork.verifier.policies import images_policy, verifiers_policy
    from sevfork.verifier.policy_comments import commented

    usual = ("simulated",) if purpose == "image" else ("sev-snp", "tdx")
    technologies = [Technology(name) for name in dict.fromkeys(names or usual)]
    roots = simulated_roots() if Technology.SIMULATED in technologies else ()
    if purpose == "verify":
        text = verifiers_policy(technologies, roots)
    elif len(technologies) == 1:
        text = images_policy(technologies[0], roots, datetime.now(UTC))
    else:
        raise UsageError("an image is built for one technology")
    if as_json:
        values = [technology.value for technology in technologies]
        app.output.json({"for": purpose, "technologies": values, "policy": commented(text)})
    else:
        app.output.text(commented(text))
