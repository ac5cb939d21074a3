"""What a capture that does not come to its end leaves behind: a running workload, nothing else."""

from __future__ import annotations

import errno
import gc
import os
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from sevfork.agent import captures
from sevfork.agent import forks as forks_module
from sevfork.agent.audit import AuditLog
from sevfork.agent.chronicle import Chronicle, Home
from sevfork.agent.engine import CaptureCost, Generation, OnStep, Sink, Source
from sevfork.agent.evidence.endorsed import Shelf
from sevfork.agent.evidence.provider import EvidenceProvider
from sevfork.agent.forks import MAX_KEPT_OFFERS, MAX_OPEN_FORKS, Forks, Party
from sevfork.agent.identity import Identity, PolicyVerifier
from sevfork.agent.link import HostGone
from sevfork.attest.guest_policy import GuestPolicy, guest_policy_toml
from sevfork.attest.verdict import LaunchIdentity
from sevfork.errors import HostCannot, NotAuthentic, RefusedByGuest, SevforkError, UsageError
from sevfork.handshake import (
    Allowance,
    InstanceKey,
    Lineage,
    OwnerCertificate,
    OwnerToken,
    OwnLaunch,
    owner_digest,
)
from sevfork.handshake.launch import LaunchConfig, Role
from sevfork.owner.key_file import PrivateKey
from sevfork.technology import Technology
from sevfork.wire import protocol
from sevfork.wire.protocol import MAX_CHILDREN

MIB = 2**20
OWNER = PrivateKey.generate()
POLICY = GuestPolicy.decode(
    guest_policy_toml(
        Technology.SIMULATED, "owner", ["00" * 32], datetime(2026, 1, 1, tzinfo=UTC)
    ).encode()
)


class FakeEngine:
    """A workload of some MiB that stands still while it is captured, as the true engine's does."""

    def __init__(self, size: int = 4 * MIB) -> None:
        self.size, self.frozen = size, False
        self.kept: list[weakref.ref[Sink]] = []

    kept_bytes = 0

    def capture(self, sink: Sink, on_step: OnStep, *, keep: bool = False) -> CaptureCost:
        self.kept.append(weakref.ref(sink))
        try:
            on_step(protocol.Step.COPY)
            self.frozen = True
            on_step(protocol.Step.FREEZE)
            for _ in range(self.size // MIB):
                sink.write(bytes(MIB))
            return CaptureCost(1.0, (), self.size, self.size, 0, 0)
        finally:
            self.frozen = False

    def probe(self) -> str | None:
        return None

    def update(self, sink: Sink, on_step: OnStep) -> CaptureCost:
        raise NotImplementedError

    def forget(self) -> None:
        raise NotImplementedError

    def discard(self) -> None:
        raise NotImplementedError

    def settle(self) -> None:
        raise NotImplementedError

    def unpack(self, source: Source) -> None:
        raise NotImplementedError

    def resume(self, generation: Generation) -> None:
        raise NotImplementedError

    def warm_up(self) -> None:
        raise NotImplementedError


class Parent:
    """A root VM of an owner, and the volume that the host has plugged in."""

    def __init__(self, volume: Path, policy: GuestPolicy = POLICY, *, adopted: bool = True) -> None:
        self.key, self.engine, self.volume = InstanceKey(), FakeEngine(), volume
        self.fit(16 * MIB)
        public = OWNER.public
        config = LaunchConfig(Role.ROOT, owner_digest(public))
        identity = LaunchIdentity(Technology.SIMULATED, (("measurement", b"m" * 48),))
        launch = OwnLaunch(
            Technology.SIMULATED, config.encode(), identity, b"r" * 32, None, POLICY.digest
        )
        lineage = Lineage(self.key.public)
        provider = cast(EvidenceProvider, None)  # nobody joins here
        me = Party(
            Identity(config, launch),
            self.key,
            lineage,
            PolicyVerifier(policy, Shelf(Technology.SIMULATED)),
            provider,
        )
        self.audit = AuditLog(self.key)
        self.forks = Forks(me, self.engine, Chronicle(cast(Home, None), None), self.audit)
        if adopted:
            self.adopt()

    def adopt(self) -> None:
        certificate = OwnerCertificate.issue(OWNER, self.key.public)
        self.forks.handle(protocol.Adopt(certificate.encode()))

    def fit(self, size: int) -> None:
        with self.volume.open("wb") as file:
            file.truncate(size)

    def token(self, children: int = 1, *, serial: int = 1, **allowed: Any) -> bytes:
        return OwnerToken.issue(
            OWNER,
            instance_key=self.key.public,
            policy_digest=POLICY.digest,
            serial=serial,
            allowed=Allowance(children, **allowed),
        ).encode()

    def knows(self, fork_id: bytes) -> bool:
        """Whether it still has OFFERs of this capture, in whatever state."""
        try:
            self.forks.join(protocol.RelayJoin(fork_id, 0, b""))
        except SevforkError as exc:
            return "no such OFFER" not in exc.message
        return True

    def reserve(self, count: int = 1, token: bytes | None = None) -> protocol.Reserved:
        return self.forks.reserve(protocol.Reserve(count, warm=False, token=token))

    def capture(
        self, progress: Callable[[str, int, int], None], count: int = 1
    ) -> protocol.Reserved:
        """OFFERs and their capture."""
        reserved = self.reserve(count, self.token())
        self.forks.capture(protocol.Capture(reserved.fork_id, "sf-0"), progress)
        return reserved


def watching(phase: str, done: int, total: int) -> None:
    """A host that reads."""


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parent:
    volume = tmp_path / "volume"
    monkeypatch.setattr(captures, "find_volume", lambda serial: volume)
    return Parent(volume)


def test_a_vm_that_its_owner_has_not_adopted_forks_for_nobody(tmp_path: Path) -> None:
    parent = Parent(tmp_path / "volume", adopted=False)
    for warm in (False, True):
        with pytest.raises(RefusedByGuest, match="has not adopted") as refused:
            parent.forks.reserve(protocol.Reserve(1, warm=warm, token=parent.token()))
        assert refused.value.hint is not None
        assert "sevfork owner adopt {vm}" in refused.value.hint
    parent.adopt()
    assert len(parent.reserve(1, parent.token()).offers) == 1


def test_a_refused_certificate_leaves_a_vm_as_it_was(tmp_path: Path) -> None:
    parent = Parent(tmp_path / "volume", adopted=False)
    stranger = OwnerCertificate.issue(PrivateKey.generate(), parent.key.public)
    with pytest.raises(NotAuthentic, match="another owner"):
        parent.forks.handle(protocol.Adopt(stranger.encode()))
    assert lineage_of(parent) == Lineage(parent.key.public)
    parent.adopt()
    parent.adopt()
    lineage_of(parent).verify(owner_digest(OWNER.public))


def lineage_of(parent: Parent) -> Lineage:
    """What the agent tells of itself."""
    told = parent.forks.handle(protocol.GetLineage())
    assert isinstance(told, protocol.Descent)
    return Lineage.decode(told.lineage)


def open_files() -> set[Path]:
    return {entry.resolve() for entry in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize("moment", ["copy", "freeze", "in the middle", "flush"])
def test_a_host_that_vanishes_costs_nothing(parent: Parent, moment: str) -> None:
    def vanish(phase: str, done: int, total: int) -> None:
        if phase == moment or (moment == "in the middle" and done):
            raise HostGone("no host is listening")

    with pytest.raises(HostGone):
        parent.capture(vanish)
    gc.collect()
    assert not parent.engine.frozen
    assert parent.engine.kept[0]() is None, "what was being written is still held"
    assert parent.volume.resolve() not in open_files()
    assert len(parent.capture(watching).offers) == 1, "the token is still good"


def test_a_capture_that_does_not_fit_leaves_the_owners_token_unspent(parent: Parent) -> None:
    parent.fit(2 * MIB)
    with pytest.raises(HostCannot, match="too small"):
        parent.capture(watching)
    parent.fit(16 * MIB)
    assert len(parent.capture(watching).offers) == 1


def test_a_token_is_good_for_one_capture(parent: Parent) -> None:
    before = parent.reserve(1, parent.token())
    parent.capture(watching)
    with pytest.raises(RefusedByGuest, match="spent"):
        parent.capture(watching)
    captures = len(parent.engine.kept)
    with pytest.raises(RefusedByGuest, match="spent"):
        parent.forks.capture(protocol.Capture(before.fork_id, "sf-0"), watching)
    assert len(parent.engine.kept) == captures, "the workload stood still for nothing"


def test_a_fork_that_was_reserved_captures_once(public: Parent, clock: Clock) -> None:
    fork_id = public.reserve().fork_id
    request = protocol.Capture(fork_id, "sf-0")
    public.forks.capture(request, watching)
    with pytest.raises(RefusedByGuest, match="waits for a capture"):
        public.forks.capture(request, watching)
    for reason in ("unknown", "abandoned", "expired"):
        fork_id = bytes(16) if reason == "unknown" else public.reserve().fork_id
        if reason == "abandoned":
            public.forks.abandon(fork_id)
        clock.now += POLICY.offer_lifetime_s if reason == "expired" else 0
        with pytest.raises(RefusedByGuest, match="waits for a capture"):
            public.forks.capture(protocol.Capture(fork_id, "sf-0"), watching)
    assert len(public.engine.kept) == 1


def test_nobody_joins_before_the_capture(public: Parent) -> None:
    reserved = public.reserve()
    with pytest.raises(RefusedByGuest, match="captured nothing yet"):
        public.forks.join(protocol.RelayJoin(reserved.fork_id, 0, b"join"))
    public.forks.capture(protocol.Capture(reserved.fork_id, "sf-0"), watching)
    with pytest.raises(NotAuthentic):
        public.forks.join(protocol.RelayJoin(reserved.fork_id, 0, b"join"))


def test_a_capture_that_takes_longer_than_an_offer_is_good(public: Parent, clock: Clock) -> None:
    """Its children are launched meanwhile: times count from its end."""
    reserved = public.reserve()

    def slowly(phase: str, done: int, total: int) -> None:
        if phase == "flush":
            clock.now += 2 * POLICY.offer_lifetime_s

    public.forks.capture(protocol.Capture(reserved.fork_id, "sf-0"), slowly)
    public.forks.forget_expired()
    with pytest.raises(NotAuthentic):
        public.forks.join(protocol.RelayJoin(reserved.fork_id, 0, b"join"))


class Clock:
    """Monotonic time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(forks_module, "time", clock)
    return clock


@pytest.fixture
def public(parent: Parent) -> Parent:
    """Anyone may fork it."""
    return Parent(parent.volume, replace(POLICY, fork="anyone"))


def test_captures_with_open_offers_have_a_limit_until_their_time_is_over(
    public: Parent, clock: Clock
) -> None:
    for _ in range(MAX_OPEN_FORKS):
        public.capture(watching)
    with pytest.raises(RefusedByGuest, match="open OFFERs"):
        public.reserve()
    clock.now += POLICY.offer_lifetime_s
    public.capture(watching)


def test_an_abandoned_capture_makes_room_for_another(public: Parent) -> None:
    captured = [public.capture(watching) for _ in range(MAX_OPEN_FORKS)]
    public.forks.abandon(captured[0].fork_id)
    public.capture(watching)


@pytest.mark.parametrize("count", [-1, 0, MAX_CHILDREN + 1, 2**31])
def test_a_count_that_no_fork_has_is_refused(public: Parent, count: int) -> None:
    with pytest.raises(UsageError, match="1 to 64"):
        public.reserve(count)


@pytest.mark.parametrize("index", [-1, 1, 63])
def test_a_place_that_the_capture_does_not_have_is_refused(public: Parent, index: int) -> None:
    fork_id = public.capture(watching).fork_id
    for place in ((fork_id, index), (bytes(16), 0)):
        with pytest.raises(RefusedByGuest, match="no such OFFER"):
            public.forks.join(protocol.RelayJoin(*place, b""))


def test_under_fork_by_owner_nobody_captures_without_a_token(parent: Parent) -> None:
    with pytest.raises(RefusedByGuest, match="token"):
        parent.reserve()


def test_a_token_for_one_child_is_no_token_for_two(parent: Parent) -> None:
    with pytest.raises(RefusedByGuest, match="allows 1 children"):
        parent.reserve(2, parent.token())


def forked(parent: Parent, count: int, token: bytes) -> None:
    reserved = parent.reserve(count, token)
    parent.forks.capture(protocol.Capture(reserved.fork_id, "sf-0"), watching)


def test_a_standing_token_is_spent_child_by_child_over_many_forks(parent: Parent) -> None:
    token = parent.token(5, standing=True)
    forked(parent, 2, token)
    forked(parent, 2, token)
    with pytest.raises(RefusedByGuest, match="1 of 5 children left, not 2"):
        parent.reserve(2, token)
    forked(parent, 1, token)
    with pytest.raises(RefusedByGuest, match="spent"):
        parent.reserve(1, token)
    forked(parent, 1, parent.token(1, serial=2))


def test_a_fork_of_fewer_children_spends_a_token_that_is_for_one(parent: Parent) -> None:
    forked(parent, 1, parent.token(4))
    with pytest.raises(RefusedByGuest, match="spent"):
        parent.reserve(1, parent.token(4))


def test_what_is_reserved_and_never_captured_is_not_counted(parent: Parent) -> None:
    token = parent.token(2, standing=True)
    parent.forks.abandon(parent.reserve(2, token).fork_id)
    forked(parent, 2, token)


def test_captures_that_fail_are_not_counted_and_those_that_others_have_used_up_are_refused(
    parent: Parent,
) -> None:
    token = parent.token(3, standing=True)
    before, late = parent.reserve(2, token), parent.reserve(2, token)
    parent.fit(2 * MIB)
    with pytest.raises(HostCannot, match="too small"):
        parent.forks.capture(protocol.Capture(before.fork_id, "sf-0"), watching)
    parent.fit(16 * MIB)
    parent.forks.capture(protocol.Capture(before.fork_id, "sf-0"), watching)
    captures = len(parent.engine.kept)
    with pytest.raises(RefusedByGuest, match="1 of 3 children left, not 2"):
        parent.forks.capture(protocol.Capture(late.fork_id, "sf-0"), watching)
    assert len(parent.engine.kept) == captures, "the workload stood still for nothing"


def test_a_token_replayed_to_a_vm_that_was_started_anew_is_refused(
    parent: Parent, tmp_path: Path
) -> None:
    anew = Parent(tmp_path / "another")
    with pytest.raises(RefusedByGuest, match="started anew"):
        anew.reserve(1, parent.token())


def test_a_token_that_has_ended_by_the_guests_clock_is_refused(parent: Parent) -> None:
    now = datetime.now(UTC).timestamp()
    with pytest.raises(RefusedByGuest, match="which its host sets"):
        parent.reserve(1, parent.token(not_after=int(now) - 60))
    forked(parent, 1, parent.token(not_after=int(now) + 3600))


def test_a_token_for_a_fork_that_is_missing_says_what_its_owner_types(parent: Parent) -> None:
    with pytest.raises(RefusedByGuest) as caught:
        parent.reserve(3)
    assert "sevfork owner authorize {vm} --children 3 -o TOKEN" in (caught.value.hint or "")


def test_a_host_that_captures_again_and_again_does_not_fill_the_agents_memory(
    public: Parent, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 captures of 64 OFFERs each kept 66 MiB; under fork = "anyone" any host may ask."""
    assert MAX_KEPT_OFFERS == 1024
    monkeypatch.setattr(forks_module, "MAX_KEPT_OFFERS", 4 * MAX_CHILDREN)
    captured = []
    for _ in range(4 + 1):
        captured.append(public.capture(watching, MAX_CHILDREN).fork_id)
        clock.now += POLICY.offer_lifetime_s
    assert sum(public.knows(fork_id) for fork_id in captured) == 4
    assert public.knows(captured[-1])
    assert not public.knows(captured[0])


def test_an_open_capture_is_never_forgotten_for_a_new_one(
    public: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks_module, "MAX_KEPT_OFFERS", 4)
    first = public.capture(watching).fork_id
    for _ in range(5):
        public.forks.abandon(public.capture(watching).fork_id)
    assert public.knows(first)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.ENODEV])
@pytest.mark.parametrize("moment", ["the first chunk", "the middle", "the header", "the flush"])
def test_a_medium_that_fails_costs_the_fork_and_never_the_workload(
    parent: Parent, monkeypatch: pytest.MonkeyPatch, moment: str, number: int
) -> None:
    offsets = {"the first chunk": 4096, "the middle": 4096 + 3 * MIB, "the header": 0}
    write, attempts = os.pwritev, list[int]()

    def failing(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if offset == offsets.get(moment):
            attempts.append(offset)
            raise OSError(number, os.strerror(number))
        return write(descriptor, buffers, offset)

    def failing_flush(descriptor: int) -> None:
        attempts.append(-1)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(os, "pwritev", failing)
        if moment == "the flush":
            broken.setattr(os, "fsync", failing_flush)
        with pytest.raises(HostCannot, match=os.strerror(number)) as caught:
            parent.capture(watching)
    assert caught.value.exit_code == 13
    assert "pool" in (caught.value.hint or "")
    assert len(attempts) <= 3, "it was tried again and again"
    assert not parent.engine.frozen
    assert parent.volume.resolve() not in open_files()
    assert len(parent.capture(watching).offers) == 1, "the next fork passes, its token unspent"


def test_a_volume_that_may_not_be_written_is_said_to_be_one(
    parent: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as broken:
        broken.setattr(os, "open", refused)
        with pytest.raises(HostCannot, match="cannot be opened: Read-only"):
            parent.capture(watching)
    assert not parent.engine.frozen
