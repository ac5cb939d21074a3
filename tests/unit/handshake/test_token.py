"""The owner's token against a host that has it, and has everything but the owner's key."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from msgspec.structs import asdict, replace

from sevfork.attest.verdict import LaunchIdentity
from sevfork.errors import RefusedByGuest
from sevfork.handshake import (
    Allowance,
    InstanceKey,
    OwnerToken,
    OwnLaunch,
    TokenGate,
    owner_digest,
)
from sevfork.handshake.launch import LaunchConfig, Role
from sevfork.owner.key_file import PrivateKey
from sevfork.technology import Technology
from tests.support.fake_family import Family, Fork

OWNER = PrivateKey.generate()
INSTANCE = InstanceKey().public
POLICY = b"p" * 48
CHIP, OTHER_CHIP = b"c" * 64, b"d" * 64
NOW = 1_800_000_000


def own(owner: PrivateKey | None = OWNER, chip: bytes | None = None) -> OwnLaunch:
    config = LaunchConfig(Role.ROOT, owner_digest(owner.public) if owner else None)
    identity = LaunchIdentity(Technology.SEV_SNP, ())
    return OwnLaunch(Technology.SEV_SNP, config.encode(), identity, b"r" * 32, chip, POLICY)


@pytest.fixture
def gate() -> TokenGate:
    return TokenGate(own(), INSTANCE)


def token(
    owner: PrivateKey = OWNER,
    *,
    instance_key: bytes = INSTANCE,
    policy_digest: bytes = POLICY,
    serial: int = 7,
    children: int = 3,
    **allowed: Any,
) -> OwnerToken:
    return OwnerToken.issue(
        owner,
        instance_key=instance_key,
        policy_digest=policy_digest,
        serial=serial,
        allowed=Allowance(children, **allowed),
    )


def refuse(gate: TokenGate, encoded: bytes | None, children: int, reason: str) -> None:
    with pytest.raises(RefusedByGuest, match=reason) as caught:
        gate.check(encoded, children, NOW)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("children", [1, 3])
def test_token_admits_up_to_its_number_of_children(gate: TokenGate, children: int) -> None:
    assert gate.check(token().encode(), children, NOW) == token()


@pytest.mark.parametrize("children", [0, 4, -1])
def test_token_for_fewer_children_is_refused(gate: TokenGate, children: int) -> None:
    refuse(gate, token().encode(), children, "allows 3 children")


def test_no_token_is_refused_with_what_the_owner_types(gate: TokenGate) -> None:
    with pytest.raises(RefusedByGuest) as caught:
        gate.check(None, 4, NOW)
    assert "sevfork owner authorize {vm} --children 4 -o TOKEN" in (caught.value.hint or "")


def test_spent_token_is_refused_and_another_is_good(gate: TokenGate) -> None:
    with gate.counted(gate.check(token().encode(), 1, NOW), 1):
        pass
    refuse(gate, token().encode(), 1, "spent")
    gate.check(token(serial=8).encode(), 3, NOW)


def test_token_that_was_only_checked_is_not_spent(gate: TokenGate) -> None:
    for _ in range(2):
        gate.check(token().encode(), 3, NOW)


def test_what_failed_is_not_counted(gate: TokenGate) -> None:
    for standing in (False, True):
        checked = gate.check(token(standing=standing).encode(), 2, NOW)
        with pytest.raises(OSError, match="volume"), gate.counted(checked, 2):
            raise OSError("the volume is full")
        gate.check(token().encode(), 3, NOW)


def test_token_that_was_checked_twice_is_spent_once(gate: TokenGate) -> None:
    first, second = (gate.check(token().encode(), 1, NOW) for _ in range(2))
    with gate.counted(first, 1):
        pass
    with pytest.raises(RefusedByGuest, match="spent"), gate.counted(second, 1):
        pytest.fail("it was spent twice")


def test_token_is_spent_while_its_fork_goes_on(gate: TokenGate) -> None:
    checked = gate.check(token().encode(), 1, NOW)
    with gate.counted(checked, 1):
        refuse(gate, token().encode(), 1, "spent")


def test_standing_token_is_spent_child_by_child(gate: TokenGate) -> None:
    standing = token(children=5, standing=True)
    for count in (2, 2):
        with gate.counted(gate.check(standing.encode(), count, NOW), count):
            pass
    refuse(gate, standing.encode(), 2, "1 of 5 children left, not 2")
    with gate.counted(gate.check(standing.encode(), 1, NOW), 1):
        pass
    refuse(gate, standing.encode(), 1, "spent")


def test_fork_that_needs_no_token_is_let_through(gate: TokenGate) -> None:
    with gate.counted(None, 64):
        refuse(gate, token().encode(), 4, "allows 3 children")


def test_token_of_another_owner_is_refused(gate: TokenGate) -> None:
    refuse(gate, token(PrivateKey.generate()).encode(), 1, "another owner")


def test_token_of_another_owner_with_this_owners_key_in_it_is_refused(gate: TokenGate) -> None:
    forged = replace(token(PrivateKey.generate()), owner_key=OWNER.public)
    refuse(gate, forged.encode(), 1, "not valid")


def test_token_of_another_vm_is_refused(gate: TokenGate) -> None:
    refuse(gate, token(instance_key=InstanceKey().public).encode(), 1, "another instance")


def test_token_replayed_to_a_restarted_parent_is_refused() -> None:
    """It has the same image, policy, owner and name, and another instance key."""
    restarted = TokenGate(own(), InstanceKey().public)
    refuse(restarted, token().encode(), 1, "started anew")


def test_token_for_another_policy_is_refused(gate: TokenGate) -> None:
    refuse(gate, token(policy_digest=b"q" * 48).encode(), 1, "another policy")


def test_token_that_has_expired_is_refused_and_whose_word_that_is_said(gate: TokenGate) -> None:
    gate.check(token(not_after=NOW).encode(), 1, NOW)
    refuse(gate, token(not_after=NOW - 1).encode(), 1, "2027-01-15 07:59:59 UTC.*its host sets")


def test_token_for_another_chip_is_refused_where_children_run_on_the_parents() -> None:
    gate = TokenGate(own(chip=CHIP), INSTANCE)
    refuse(gate, token(chips=(OTHER_CHIP,)).encode(), 1, "other chips")
    gate.check(token(chips=(OTHER_CHIP, CHIP)).encode(), 1, NOW)
    gate.check(token().encode(), 1, NOW)


def test_token_for_a_chip_is_admitted_where_children_may_run_on_any(gate: TokenGate) -> None:
    """Which one it is shows in the child's evidence."""
    gate.check(token(chips=(OTHER_CHIP,)).encode(), 1, NOW)


@pytest.mark.parametrize("chips", [(), (CHIP,)], ids=["anywhere", "one chip"])
def test_token_with_any_bit_flipped_is_refused(gate: TokenGate, chips: Any) -> None:
    encoded = token(chips=chips).encode()
    for bit in range(8 * len(encoded)):
        changed = bytearray(encoded)
        changed[bit // 8] ^= 1 << bit % 8
        refuse(gate, bytes(changed), 1, "not valid|another owner")


@pytest.mark.parametrize("change", ["", "cut", "trailing", "empty"])
def test_token_of_another_length_is_refused(gate: TokenGate, change: str) -> None:
    encoded = token().encode()
    changed = {"cut": encoded[:-1], "trailing": encoded + b"\0", "empty": b""}.get(change)
    if changed is None:
        gate.check(encoded, 1, NOW)
    else:
        refuse(gate, changed, 1, "not valid")


def test_vm_without_owner_admits_no_token() -> None:
    refuse(TokenGate(own(None), INSTANCE), token().encode(), 1, "no owner")


class Interrupted(OwnerToken, frozen=True):
    """Whoever looks up its serial lets another thread go first, between two steps of counting."""

    def __getattribute__(self, name: str) -> Any:
        if name == "serial":
            time.sleep(0)
        return super().__getattribute__(name)


@pytest.mark.parametrize(("standing", "passed"), [(True, 700), (False, 1)])
def test_ten_thousand_uses_of_one_token_give_the_children_it_says(
    gate: TokenGate, standing: bool, passed: int
) -> None:
    checked = gate.check(token(children=700, standing=standing).encode(), 1, NOW)
    shared = Interrupted(**asdict(checked))

    def use(_number: int) -> bool:
        try:
            with gate.counted(shared, 1):
                return True
        except RefusedByGuest:
            return False

    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(use, range(10_000), chunksize=50)) == passed


def test_child_on_a_chip_that_the_token_does_not_name_is_refused_before_it_is_granted() -> None:
    family = Family(same_chip=False)
    parent = family.parent(chips=(CHIP,))

    def child(chip: bytes) -> Fork:
        guest = family.child_of(parent.offer, chip_id=chip)
        return Fork(family, family.root, parent, guest)

    with pytest.raises(RefusedByGuest, match="does not name"):
        child(OTHER_CHIP).grant()
    # The OFFER is good still, for one where the owner wants it.
    assert child(CHIP).grant()
