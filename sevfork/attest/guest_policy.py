"""The guest's policy: the measured file ``/etc/sevfork/policy.toml``, which says who may be forked.

It is part of what the launch measurement covers, so a host cannot change it, and an owner can
read in an image what it will do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Struct

from sevfork.attest.defaults import (
    HARDWARE_FLOORS,
    HARDWARE_ROOTS,
    NO_FLOORS,
    SIMULATED_MINIMUM,
    Floors,
    policy_toml,
)
from sevfork.attest.policy import Policy, decode_toml
from sevfork.attest.vendor_facts import vendor_facts
from sevfork.errors import UsageError
from sevfork.technology import Technology

# In the guest, from its root.
POLICY_PATH = "/etc/sevfork/policy.toml"
_DAY_S = 24 * 60 * 60
Lifetime = Annotated[int, msgspec.Meta(ge=1, le=30 * _DAY_S)]
Fork = Literal["owner", "anyone"]
# Where an attestation policy lists chips: by chip id, or by Intel's PPID.
_CHIP_RULES = {"snp": "chips", "tdx": "platforms"}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file as written; every key is required, as in the attestation policy inside it."""

    schema: Literal[1]
    fork: Fork
    launch: Literal["self"]
    chip: Literal["same", "any"] | tuple[str, ...]
    offer_lifetime_s: Lifetime
    image_key_lifetime_s: Lifetime
    warm_lifetime_s: Lifetime
    attest: Policy


class GuestPolicy(Struct, frozen=True):
    """What this image allows. ``digest`` is SHA-384 over the file's exact bytes.

    ``fork``: who may ask for a fork, the holder of an owner's token or anyone. ``launch``: a peer
    must be of this very launch. ``chip``: where a peer may run; if a list, chip ids (SNP) or PPIDs
    (TDX) in hexadecimal.
    """

    fork: Fork
    launch: Literal["self"]
    chip: Literal["same", "any"] | tuple[str, ...]
    offer_lifetime_s: int
    image_key_lifetime_s: int
    warm_lifetime_s: int
    attest: Policy
    digest: bytes

    @classmethod
    def decode(cls, data: bytes) -> GuestPolicy:
        """Raise UsageError, saying where, unless data is a complete guest policy in TOML."""
        file = decode_toml(data, _File, "the guest's policy")
        attest = _with_chips(file.attest, file.chip)
        fields = {name: getattr(file, name) for name in _File.__struct_fields__}
        del fields["schema"]
        return cls(**{**fields, "attest": attest}, digest=hashlib.sha384(data).digest())


def _with_chips(attest: Policy, chip: str | tuple[str, ...]) -> Policy:
    """A list of chips is one more thing that the attestation policy accepts or not."""
    if isinstance(chip, str):
        return attest
    places = [(name, rule) for name, rule in _CHIP_RULES.items() if getattr(attest, name)]
    if len(places) != 1:
        raise UsageError("a list of chips needs a policy for one kind of processor")
    ((section, rule),) = places
    rules = getattr(attest, section)
    if getattr(rules, rule) != "any":
        raise UsageError(f"a list of chips needs '{rule} = \"any\"' in the section '{section}'")
    try:
        listed = msgspec.structs.replace(rules, **{rule: chip})
    except ValueError as exc:
        raise UsageError(f"the guest's policy is not valid: {exc}") from exc
    return msgspec.structs.replace(attest, **{section: listed})


def guest_policy_toml(
    technology: Technology,
    fork: Fork,
    roots: Sequence[str],
    build_time: datetime,
    floors: Floors | None = None,
) -> str:
    """The policy for an image: its own technology, these roots (hex SHA-256), one chip.

    Hardware's published roots stand in for an empty list; the simulator's have to be given. Floors
    are hardware's usual ones; the simulated processor has no list, collateral or memory to check.
    """
    roots = roots or HARDWARE_ROOTS.get(technology, ())
    simulated = technology is Technology.SIMULATED
    floors = NO_FLOORS if simulated else floors or HARDWARE_FLOORS
    head = [
        f"# sevfork's policy in a guest image for: {technology.label}",
        "schema = 1",
        f'fork = "{fork}"',
        'launch = "self"',
        'chip = "same"',
        "offer_lifetime_s = 600",
        "image_key_lifetime_s = 3600",
        f"warm_lifetime_s = {_DAY_S}",
        "",
    ]
    facts = vendor_facts()
    attest = policy_toml(
        [technology],
        roots,
        build_time,
        minimum_tcb=SIMULATED_MINIMUM if simulated else facts.minimum_tcb(floors.tcb),
        minimum_microcode=facts.minimum_microcode(floors.tcb),
        floors=floors,
        section="attest",
        for_peers=True,
    )
    text = "\n".join(head) + "\n" + attest
    GuestPolicy.decode(text.encode())
    return text
