"""The owner's token: every field is a limit, and it is spent once."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sevfork.errors import NotAuthentic, RefusedByGuest
from sevfork.handshake import InstanceKey, OwnerToken, TokenGate, owner_digest
from sevfork.owner.key_file import PrivateKey

OWNER = PrivateKey.generate()
OWNER_DIGEST = owner_digest(OWNER.public)
INSTANCE = InstanceKey().public
POLICY = b"p" * 48


@pytest.fixture
def gate() -> TokenGate:
    return TokenGate(OWNER_DIGEST, INSTANCE, POLICY)


def token(owner: PrivateKey = OWNER, **fields: Any) -> OwnerToken:
    scope: dict[str, Any] = {
        "instance_key": INSTANCE,
        "policy_digest": POLICY,
        "children": 3,
        "serial": 7,
    }
    return OwnerToken.issue(owner, **{**scope, **fields})


@pytest.mark.parametrize("children", [1, 3])
def test_token_admits_up_to_its_number_of_children(gate: Any, children: Any) -> None:
    assert gate.check(token().encode(), children) == token()


@pytest.mark.parametrize("children", [0, 4, -1])
def test_token_for_fewer_children_is_refused(gate: Any, children: Any) -> None:
    with pytest.raises(RefusedByGuest, match="allows 3 children"):
        gate.check(token().encode(), children)


def test_spent_serial_is_refused(gate: Any) -> None:
    gate.spend(gate.check(token().encode(), 1))
    with pytest.raises(RefusedByGuest, match="spent"):
        gate.check(token(children=2).encode(), 1)
    gate.check(token(serial=8).encode(), 1)


def test_a_token_that_was_checked_twice_is_spent_once(gate: Any) -> None:
    checked = [gate.check(token().encode(), 1) for _ in range(2)]
    gate.spend(checked[0])
    with pytest.raises(RefusedByGuest, match="spent"):
        gate.spend(checked[1])


def test_a_token_that_was_only_checked_is_not_spent(gate: Any) -> None:
    gate.check(token().encode(), 3)
    gate.check(token().encode(), 3)


def test_token_of_another_owner_is_refused(gate: Any) -> None:
    with pytest.raises(RefusedByGuest, match="another owner"):
        gate.check(token(PrivateKey.generate()).encode(), 1)


def test_token_for_another_instance_is_refused(gate: Any) -> None:
    with pytest.raises(RefusedByGuest, match="another instance"):
        gate.check(token(instance_key=InstanceKey().public).encode(), 1)


def test_token_for_another_policy_is_refused(gate: Any) -> None:
    with pytest.raises(RefusedByGuest, match="another policy"):
        gate.check(token(policy_digest=b"q" * 48).encode(), 1)


@pytest.mark.parametrize("change", [{"children": 100}, {"serial": 8}, {"signature": bytes(64)}])
def test_token_that_was_changed_is_rejected(gate: Any, change: Any) -> None:
    forged = dataclasses.replace(token(), **change)
    with pytest.raises(NotAuthentic, match="signature"):
        gate.check(forged.encode(), 1)


def test_missing_token_is_refused_with_a_hint(gate: Any) -> None:
    with pytest.raises(RefusedByGuest) as caught:
        gate.check(None, 1)
    assert "--token" in (caught.value.hint or "")


def test_vm_without_owner_admits_no_token() -> None:
    with pytest.raises(RefusedByGuest, match="no owner"):
        TokenGate(None, INSTANCE, POLICY).check(token().encode(), 1)
