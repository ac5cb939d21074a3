"""What evidence is judged by: without a policy, with one, or with a guest image's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from sevfork.attest.defaults import HARDWARE_ROOTS, NO_MINIMUM, SIMULATED_MINIMUM, policy_toml
from sevfork.attest.guest_policy import GuestPolicy
from sevfork.attest.policy import Policy
from sevfork.technology import Technology

_EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)


def default_policy(simulated_roots: Sequence[str] = ()) -> Policy:
    """What is judged by without ``--policy``: genuine parts, not debuggable, VMPL 0, any launch."""
    technologies = [Technology.SEV_SNP, Technology.TDX]
    minimum = dict(NO_MINIMUM)
    if simulated_roots:
        technologies.append(Technology.SIMULATED)
        minimum |= SIMULATED_MINIMUM
    roots = [root for pinned in HARDWARE_ROOTS.values() for root in pinned]
    text = policy_toml(
        technologies,
        [*roots, *simulated_roots],
        _EARLIEST,
        minimum_tcb=minimum,
        signing_keys=("vcek", "vlek"),
        collateral="optional",
    )
    return Policy.decode(text.encode())


def decode_policy(data: bytes) -> Policy:
    """An attestation policy, or the one inside a guest image's policy; UsageError otherwise."""
    if re.search(rb"(?m)^\[attest\]", data):
        return GuestPolicy.decode(data).attest
    return Policy.decode(data)
