"""What is done on hardware, in order: one command of ``sevfork`` each.

``{vm}``, ``{work}`` and the like are filled in. To try something else, add a line. A verb that this
version does not have is skipped, and the report says so.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.hardware.pinning import with_registers
from sevfork.technology import Technology

IMAGE = "image"
_BUILD_S, _LAUNCH_S = 1800.0, 600.0
_KEY = "--key {work}/owner.pem --passphrase-file {work}/passphrase"
_ADOPT = f"owner adopt {{vm}} {_KEY} --policy {{work}}/policy.toml --json"
_AUTHORISE = f"owner authorize {{vm}} {_KEY} --policy {{work}}/policy.toml --json"


@dataclass(frozen=True)
class Step:
    """``after``: steps without which it makes no sense. ``exit_code``: what counts as passed.

    ``until``: it goes on beside the steps that follow, from when it says this on stderr.
    ``saves``: what it prints is kept in this file of ``{work}``, as ``edit`` makes it.
    """

    name: str
    command: str
    after: tuple[str, ...] = ()
    only: Technology | None = None
    exit_code: int = 0
    timeout_s: float = 120.0
    until: str | None = None
    saves: str | None = None
    edit: Callable[[str, Path], str] = lambda text, _work: text

    def words(self, fields: Mapping[str, str]) -> list[str]:
        return [word.format_map(fields) for word in shlex.split(self.command)]


STEPS = (
    Step("host", "doctor --json"),
    Step(
        IMAGE,
        "guest build -o {image} --workload {workload} --technology {technology} "
        "--crl optional --json",
        only=Technology.SEV_SNP,
        timeout_s=_BUILD_S,
    ),
    Step(
        IMAGE,
        "guest build -o {image} --workload {workload} --technology {technology} --json",
        only=Technology.TDX,
        timeout_s=_BUILD_S,
    ),
    Step(
        "owner's key",
        "owner init -o {work}/owner.pem --passphrase-file {work}/passphrase",
        saves="owner.pub",
    ),
    Step(
        "launch",
        "up {vm} --image {image} --owner {work}/owner.pub --vcpus 2 --timeout 600s --json",
        after=(IMAGE, "owner's key"),
        timeout_s=_LAUNCH_S,
    ),
    Step("evidence", "attest {vm} --save {work}/parent.evidence --json", after=("launch",)),
    Step("no fork before the owner's word", "fork {vm} --json", after=("launch",), exit_code=23),
    Step("certificates", "certs fetch {vm} --json", ("launch",), timeout_s=300),
    Step(
        "policy",
        "policy --technology {technology}",
        only=Technology.SEV_SNP,
        saves="policy.toml",
    ),
    Step(
        "policy",
        "policy --technology {technology}",
        after=("evidence",),
        only=Technology.TDX,
        saves="policy.toml",
        edit=with_registers,
    ),
    Step(
        "adopt",
        f"{_ADOPT} --image {{image}} --ovmf {{firmware}}",
        ("launch", "policy"),
        only=Technology.SEV_SNP,
    ),
    Step("adopt", _ADOPT, ("launch", "policy"), only=Technology.TDX),
    Step("authorise", f"{_AUTHORISE} --children 2 -o {{work}}/token", ("adopt",)),
    Step(
        "cold fork",
        "fork {vm} -n 2 --cold --token {work}/token --timeout 600s --json",
        after=("authorise",),
        timeout_s=_LAUNCH_S,
    ),
    Step(
        "a child's evidence", "attest {vm}-fork --save {work}/child.evidence --json", ("cold fork",)
    ),
    Step("lineage", "lineage {vm}-fork --owner {work}/owner.pub --json", ("cold fork",)),
    Step(
        "authorise a pool",
        f"{_AUTHORISE} --children 20 --standing -o {{work}}/standing",
        ("adopt",),
    ),
    Step(
        "warm children",
        "pool {vm} --size 2 --token {work}/standing",
        ("cold fork", "authorise a pool"),
        until="is full",
        timeout_s=1800,
    ),
    # Without a token nothing but warm children can be had; --name would take none of them.
    Step("warm fork", "fork {vm} -n 2 --json", after=("warm children",)),
    Step("audit record", "log {vm} --verify --owner {work}/owner.pub --json", ("adopt",)),
    Step("list", "ls --json"),
)


def steps_for(technology: Technology, *, with_image: bool = True) -> tuple[Step, ...]:
    """Those of this technology; without the build of an image, where there is one already."""
    steps = (step for step in STEPS if step.only in (None, technology))
    if with_image:
        return tuple(steps)
    return tuple(
        replace(step, after=tuple(name for name in step.after if name != IMAGE))
        for step in steps
        if step.name != IMAGE
    )
