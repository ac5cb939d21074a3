"""A host that relays, drops, repeats, delays and mixes what goes to and from warm children."""

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
from sevfork.handshake import (
    HoldState,
    Manifest,
    NeedEvidence,
    ReleaseState,
    Send,
    Slot,
    manifest_digest,
)
from sevfork.handshake.keys import EcdhKey
from sevfork.handshake.warm_messages import Call
from tests.support.fake_family import MANIFEST, WARM_LIFETIME_S, Family, flip, inside, only
from tests.support.fake_warm import WarmFork, extended

REFUSALS = (AttestationFailed, NotAuthentic, RefusedByGuest, WrongState)
VMS = 2
vms = st.integers(0, VMS - 1)


def machine() -> type[RuleBasedStateMachine]:
    class Host(RuleBasedStateMachine):
        messages = Bundle("messages")

        def __init__(self) -> None:
            super().__init__()
            family = Family()
            self.forks = [WarmFork.holding(family) for _ in range(VMS)]
            self.now = 10.0
            self.chains = [MANIFEST]
            self.places = 0
            self.promised: dict[int, list[tuple[Slot, Manifest]]] = {vm: [] for vm in range(VMS)}
            self.held: dict[int, list[Manifest]] = {vm: [] for vm in range(VMS)}
            self.updates: dict[int, list[Manifest]] = {vm: [] for vm in range(VMS)}
            self.activates: dict[int, set[bytes]] = {vm: set() for vm in range(VMS)}
            self.released: dict[int, list[ReleaseState]] = {vm: [] for vm in range(VMS)}

        def ask(self, call: Any, *arguments: Any) -> Any:
            """What comes of it: the actions, or nothing if it is refused."""
            try:
                actions = call(*arguments)
            except REFUSALS:
                return []
            return list(actions) if isinstance(actions, tuple) else [actions]

        @rule()
        def the_workload_goes_on(self) -> None:
            if len(self.chains) < 8:
                mark = bytes([len(self.chains)])
                self.chains.append(extended(self.chains[-1], mark))

        @rule(target=messages, vm=vms)
        def the_parent_updates(self, vm: int) -> Any:
            made = self.ask(self.forks[vm].parent.update, self.chains[-1], self.now)
            self.updates[vm] += [self.chains[-1]] * len(made)
            assert not made or self.now < WARM_LIFETIME_S
            return multiple(*made)

        @rule(target=messages, vm=vms)
        def the_parent_calls(self, vm: int) -> Any:
            slot = Slot(b"f" * 16, self.places, 1)
            self.places += 1
            made = self.ask(self.forks[vm].parent.call, slot, self.chains[-1], self.now)
            self.promised[vm] += [(slot, self.chains[-1])] * len(made)
            assert not made or self.now < WARM_LIFETIME_S
            return multiple(*made)

        @rule(vm=vms)
        def the_parent_withdraws(self, vm: int) -> None:
            self.forks[vm].parent.withdraw()

        @rule(target=messages)
        def the_host_calls(self) -> Any:
            share, digest = EcdhKey().share, manifest_digest(MANIFEST.encode())
            return Call(bytes(32), share, b"f" * 16, 0, 1, digest).encode()

        @rule(vm=vms, message=messages)
        def give_a_child_an_update(self, vm: int, message: bytes) -> None:
            for action in self.ask(self.forks[vm].child.receive_update, message):
                assert isinstance(action, HoldState)
                self.held[vm].append(action.manifest)

        @rule(target=messages, vm=vms, message=messages)
        def give_a_child_a_call(self, vm: int, message: bytes) -> Any:
            return multiple(*self.answers(vm, message))

        @rule(target=messages, vm=vms, message=messages)
        def give_a_parent_an_answer(self, vm: int, message: bytes) -> Any:
            return multiple(*self.activates_for(vm, message))

        @rule(vm=vms, message=messages)
        def give_a_child_an_activate(self, vm: int, message: bytes) -> None:
            self.release(vm, message)

        @rule(target=messages, vm=vms, far=st.sampled_from([3, 2, 1]))
        def relay_what_an_honest_host_would(self, vm: int, far: int) -> Any:
            """Up to ``far`` of its three steps, or hardly any example would come to an ACTIVATE."""
            call = getattr(inside(self.forks[vm].parent), "call", None)
            answers = self.answers(vm, call) if call else []
            made = [self.activates_for(vm, answer) for answer in answers if far > 1]
            activates = [activate for some in made for activate in some]
            for activate in activates if far > 2 else []:
                self.release(vm, activate)
            return multiple(*answers, *activates)

        def release(self, vm: int, message: bytes) -> None:
            for action in self.ask(self.forks[vm].child.receive_activate, message):
                assert message in self.activates[vm]
                self.released[vm].append(only([action], ReleaseState))

        def answers(self, vm: int, call: bytes) -> list[bytes]:
            fork, answers = self.forks[vm], []
            for action in self.ask(fork.child.receive_call, call):
                if isinstance(action, NeedEvidence):
                    evidence = fork.guest.evidence(action.report_data)
                    answers += self.ask(fork.child.provide_evidence, evidence)
                else:
                    answers.append(action)
            return [only([action], Send).message for action in answers]

        def activates_for(self, vm: int, answer: bytes) -> list[bytes]:
            actions = self.ask(self.forks[vm].parent.receive_answer, answer, self.now)
            made = [only([action], Send).message for action in actions]
            self.activates[vm].update(made)
            return made

        @rule(target=messages, message=messages, position=st.integers(0, 5000))
        def change_a_message(self, message: bytes, position: int) -> Any:
            return flip(message, position % len(message))

        @rule(seconds=st.sampled_from([1.0, 1.0, 1.0, 300.0, 300.0, 40_000.0]))
        def wait(self, seconds: float) -> None:
            self.now += seconds

        @invariant()
        def a_child_is_activated_once_with_what_was_promised_to_it(self) -> None:
            places = []
            for vm, released in self.released.items():
                assert len(self.activates[vm]) <= 1
                assert len(released) <= 1
                for state in released:
                    mine = state.lineage.certificates[-1]
                    slot = Slot(mine.fork_id, mine.child_index, mine.generation)
                    assert (slot, state.manifest) in self.promised[vm]
                    assert mine.child == self.forks[vm].guest.instance.public
                    places.append((mine.fork_id, mine.child_index))
            assert len(set(places)) == len(places)

        @invariant()
        def a_child_holds_what_its_parent_said_in_that_order(self) -> None:
            for vm, held in self.held.items():
                assert held == self.updates[vm][: len(held)]

        @invariant()
        def a_private_key_exists_only_while_a_call_is_open(self) -> None:
            for vm, fork in enumerate(self.forks):
                if self.activates[vm]:
                    assert not fork.parent.holds
                if not fork.parent.holds:
                    assert not hasattr(inside(fork.parent), "keys")

    return Host


def test_no_order_of_messages_activates_a_child_twice_or_elsewhere() -> None:
    run_state_machine_as_test(
        machine(),
        settings=settings(max_examples=50, stateful_step_count=50, deadline=None),
    )
