"""A host that relays, drops, repeats, delays and mixes whatever it likes: one OFFER, one child."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from sevfork.errors import AttestationFailed, NotAuthentic, RefusedByGuest, WrongState
from sevfork.handshake import Confirmed, EventKind, NeedEvidence, ReleaseState, Send
from tests.support.fake_family import Family, inside, only

REFUSALS = (AttestationFailed, NotAuthentic, RefusedByGuest, WrongState)
VMS = 3  # of which the last was launched for another OFFER


def machine() -> type[RuleBasedStateMachine]:
    class Host(RuleBasedStateMachine):
        messages = Bundle("messages")

        def __init__(self) -> None:
            super().__init__()
            family = Family()
            self.root = family.root
            self.parent, other = family.parent(), family.parent()
            launched_for = [self.parent.offer] * (VMS - 1) + [other.offer]
            self.guests = [family.child_of(offer) for offer in launched_for]
            self.children = [family.session(guest) for guest in self.guests]
            self.offers = (self.parent.offer, other.offer)
            self.now = 0.0
            self.grants: set[bytes] = set()
            self.released: list[int] = []
            self.confirmed: list[bytes] = []
            self.events: list[int] = []

        def ask(self, call: Any, *arguments: Any) -> Any:
            """What comes of a message: the actions, or nothing if it is refused."""
            try:
                actions = call(*arguments)
            except REFUSALS:
                return []
            return list(actions) if isinstance(actions, tuple) else [actions]

        @rule(target=messages, vm=st.integers(0, VMS - 1), offer=st.integers(0, 1))
        def relay_offer(self, vm: int, offer: int) -> Any:
            child, guest = self.children[vm], self.guests[vm]
            sent = []
            for action in self.ask(child.receive_offer, self.offers[offer]):
                if isinstance(action, NeedEvidence):
                    evidence = guest.evidence(action.report_data)
                    sent += self.ask(child.provide_evidence, evidence)
                else:
                    sent.append(action)
            return multiple(*(action.message for action in sent))

        @rule(target=messages, message=messages)
        def give_the_parent_a_join(self, message: bytes) -> Any:
            grants = []
            for action in self.ask(self.parent.receive_join, message, self.now):
                assert self.now < 600
                if isinstance(action, NeedEvidence):
                    continue
                assert isinstance(action, Send)
                grants.append(action.message)
            self.grants.update(grants)
            return multiple(*grants)

        @rule(target=messages)
        def give_the_parent_its_evidence(self) -> Any:
            state = inside(self.parent)
            if not hasattr(state, "t1"):
                return multiple()
            need = only(state.again(), NeedEvidence)
            evidence = self.root.evidence(need.report_data)
            grants = [
                action.message
                for action in self.ask(self.parent.provide_evidence, evidence, self.now)
            ]
            self.grants.update(grants)
            return multiple(*grants)

        @rule(target=messages, message=messages, vm=st.integers(0, VMS - 1))
        def give_a_child_a_grant(self, message: bytes, vm: int) -> Any:
            for action in self.ask(self.children[vm].receive_grant, message):
                assert isinstance(action, ReleaseState)
                assert message in self.grants
                self.released.append(vm)
            confirms = self.ask(self.children[vm].confirm)
            return multiple(*confirms)

        @rule(target=messages, vm=st.integers(0, VMS - 1))
        def something_happens_to_a_child(self, vm: int) -> Any:
            return multiple(*self.ask(self.children[vm].event, EventKind.EXITED))

        @rule(message=messages)
        def give_the_parent_a_confirm(self, message: bytes) -> None:
            for action in self.ask(self.parent.receive_confirm, message):
                assert isinstance(action, Confirmed)
                self.confirmed.append(action.instance_key)

        @rule(message=messages)
        def give_the_parent_an_event(self, message: bytes) -> None:
            for action in self.ask(self.parent.receive_event, message):
                self.events.append(action.sequence)

        @rule(target=messages, message=messages, position=st.integers(0, 5000))
        def change_a_message(self, message: bytes, position: int) -> Any:
            position %= len(message)
            return message[:position] + bytes([message[position] ^ 1]) + message[position + 1 :]

        @rule(seconds=st.sampled_from([1.0, 300.0]))
        def wait(self, seconds: float) -> None:
            self.now += seconds

        @invariant()
        def one_grant_one_child_one_confirm(self) -> None:
            assert len(self.grants) <= 1
            assert len(self.released) <= 1
            assert VMS - 1 not in self.released
            released = [self.guests[vm].instance.public for vm in self.released]
            assert self.confirmed in ([], released)

        @invariant()
        def events_have_no_gaps(self) -> None:
            assert self.events == list(range(len(self.events)))

        @invariant()
        def private_keys_exist_only_while_the_offer_is_open(self) -> None:
            assert hasattr(inside(self.parent), "keys") != self.parent.spent
            if self.grants:
                assert self.parent.spent

    return Host


def test_no_order_of_messages_makes_two_children_of_one_offer() -> None:
    run_state_machine_as_test(
        machine(),
        settings=settings(max_examples=60, stateful_step_count=40, deadline=None),
    )
