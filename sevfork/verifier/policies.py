"""What evidence is judged by: without a policy, with one, or with a guest image's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from sevfork.attest.defaults import HARDWARE_ROOTS, NO_MINIMUM, SIMULATED_MINIMUM, policy_toml
from sevfork.attest.guest_policy import GuestPolicy, guest_policy_toml
from sevfork.attest.policy import Policy
from sevfork.technology import Technology

# Of what is read: a policy has some KiB, /dev/zero has no end.
POLICY_LIMIT_BYTES = 1 << 20
_EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)


def default_policy(simulated_roots: Sequence[str] = ()) -> Policy:
    """What is judged by without ``--policy``: genuine parts, not debuggable, VMPL 0, any launch."""
    technologies = [Technology.SEV_SNP, Technology.TDX]
    if simulated_roots:
        technologies.append(Technology.SIMULATED)
    return Policy.decode(verifiers_policy(technologies, simulated_roots).encode())


def verifiers_policy(technologies: Sequence[Technology], simulated_roots: Sequence[str]) -> str:
    """The policy of a verifier that knows nothing yet of what it wants, in TOML."""
    simulated = Technology.SIMULATED in technologies
    roots = [root for one in technologies for root in HARDWARE_ROOTS.get(one, ())]
    minimum = dict(NO_MINIMUM) if Technology.SEV_SNP in technologies else {}
    return policy_toml(
        technologies,
        [*roots, *(simulated_roots if simulated else ())],
        _EARLIEST,
        minimum_tcb=minimum | (SIMULATED_MINIMUM if simulated else {}),
        signing_keys=("vcek", "vlek"),
        collateral="optional",
    )


def images_policy(technology: Technology, simulated_roots: Sequence[str], now: datetime) -> str:
    """The policy that an image of this technology gets if it is built now, in TOML."""
    simulated = technology is Technology.SIMULATED
    roots = simulated_roots if simulated else ()
    return guest_policy_toml(technology, "anyone" if simulated else "owner", roots, now)


def decode_policy(data: bytes) -> Policy:
    """An attestation policy, or the one inside a guest image's policy; UsageError otherwise."""
    if re.search(rb"(?m)^\[attest\]", data):
        return GuestPolicy.decode(data).attest
    return Policy.decode(data)
