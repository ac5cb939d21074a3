"""The marker of a restore: it is there from the use of the GRANT until the network is up."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from sevfork.agent import child as child_module
from sevfork.agent import unsealed
from sevfork.agent.child import Child
from sevfork.agent.engine import Source
from sevfork.agent.serve import VmMustEnd
from sevfork.agent.unsealed import Unsealed
from sevfork.closing import Closing
from sevfork.errors import NotAuthentic, RefusedByGuest
from sevfork.handshake import InstanceKey, Layer, Lineage, Manifest, ReleaseState
from sevfork.seal import NO_BASE
from sevfork.wire import protocol
from tests.support.memory_device import seal

KEY = InstanceKey()
LAYER = Layer(
    image_key=b"k" * 32, header_digest=b"h" * 48, chunk_count=1, image_id=b"i" * 16, start=0
)
RELEASED = ReleaseState(Manifest((LAYER,)), Lineage(KEY.public), 1)


class Session:
    """A handshake that comes to a good end, unless ``refusal`` is set."""

    refusal: Exception | None = None
    released = RELEASED

    def __init__(self, *_: object) -> None:
        """Nobody is asked for anything."""

    def receive_grant(self, _: bytes) -> tuple[ReleaseState]:
        if self.refusal:
            raise self.refusal
        return (self.released,)

    def confirm(self) -> bytes:
        return b"confirm"

    def event(self, _: object, detail: bytes = b"") -> bytes:
        return b"event"


class House:
    """Notes at each step of a restore whether the marker is there. ``failing`` names a step."""

    def __init__(self, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.marker, self.failing = marker, ""
        self.steps: list[tuple[str, bool]] = []
        monkeypatch.setattr(child_module, "ChildSession", Session)
        monkeypatch.setattr(Unsealed, "take", lambda *_: self.step("unseal"))
        me = SimpleNamespace(identity=SimpleNamespace(launch=None), key=KEY, verifier=None)
        engine = SimpleNamespace(resume=lambda _: self.step("resume"))
        self.child = Child(me, engine, self)  # type: ignore[arg-type]

    @property
    def restoring(self) -> Path:
        return self.marker

    def raise_network(self) -> None:
        self.step("network")

    def step_clock(self, nanoseconds: int) -> None:
        raise AssertionError("a restore does not touch the clock")

    def step(self, name: str) -> None:
        self.steps.append((name, self.marker.exists()))
        if name == self.failing:
            raise RefusedByGuest(f"{name} failed")

    def restore(self) -> protocol.Restored:
        return self.child.restore(protocol.Restore(b"grant", "sf-0"), lambda *_: None)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(tmp_path / "restoring", monkeypatch)


def test_the_marker_stands_until_the_network_is_up(house: House) -> None:
    house.restore()
    assert house.steps == [("unseal", True), ("resume", True), ("network", True)]
    assert not house.marker.exists()


@pytest.mark.parametrize("failing", ["unseal", "resume", "network"])
def test_a_restore_that_fails_leaves_the_marker(house: House, failing: str) -> None:
    house.failing = failing
    with pytest.raises(VmMustEnd):
        house.restore()
    assert house.marker.exists()


def test_a_grant_that_is_refused_leaves_none(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "refusal", NotAuthentic("no"))
    with pytest.raises(NotAuthentic):
        house.restore()
    assert not house.marker.exists()


def test_a_marker_that_cannot_be_made_ends_the_vm(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(Path("/proc/nowhere/at-all"), monkeypatch)
    with pytest.raises(VmMustEnd):
        house.restore()
    assert not house.steps


def test_each_layer_is_read_as_a_delta_on_the_one_before_and_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a host could put an older base under a delta, or leave one out."""
    readers: list[Reader] = []

    class Reader(Closing):
        def __init__(self, device: object, **named: object) -> None:
            self.named, self.drained, self.closed = named, False, False
            readers.append(self)

        def drain(self) -> None:
            self.drained = True

        def close(self) -> None:
            self.closed = True

    volume = tmp_path / "volume"
    volume.write_bytes(bytes(4096))
    monkeypatch.setattr(unsealed, "find_volume", lambda serial: volume)
    monkeypatch.setattr(unsealed, "SealReader", Reader)
    layers = tuple(replace(LAYER, header_digest=letter * 48) for letter in (b"1", b"2", b"3"))
    monkeypatch.setattr(Session, "released", replace(RELEASED, manifest=Manifest(layers)))
    at_work: list[bool] = []
    engine = SimpleNamespace(
        unpack=lambda _: None,
        resume=lambda _: at_work.extend(reader.drained for reader in readers),
    )
    monkeypatch.setattr(child_module, "ChildSession", Session)
    me = SimpleNamespace(identity=SimpleNamespace(launch=None), key=KEY, verifier=None)
    machine = SimpleNamespace(restoring=tmp_path / "restoring", raise_network=lambda: None)
    child = Child(me, engine, machine)  # type: ignore[arg-type]
    child.restore(protocol.Restore(b"grant", "sf-0"), lambda *_: None)

    bases = [reader.named["base_digest"] for reader in readers]
    assert bases == [NO_BASE, b"1" * 48, b"2" * 48]
    assert [reader.named["header_digest"] for reader in readers] == [
        b"1" * 48,
        b"2" * 48,
        b"3" * 48,
    ]
    assert at_work == [True, True, True], "something ran before all had verified"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENODEV, errno.ENOSPC])
@pytest.mark.parametrize("moment", [0, 4096, 4096 + 2**20], ids=["header", "first", "last"])
def test_a_medium_that_cannot_be_read_ends_the_child_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int, number: int
) -> None:
    sealed = seal(b"state" * 300_000)
    (volume := tmp_path / "volume").write_bytes(sealed.device.data)
    layer = Layer(
        image_key=sealed.key,
        header_digest=sealed.image.header_digest,
        chunk_count=sealed.image.chunk_count,
        image_id=sealed.image.image_id,
        start=0,
    )
    monkeypatch.setattr(unsealed, "find_volume", lambda serial: volume)
    monkeypatch.setattr(child_module, "ChildSession", Session)
    monkeypatch.setattr(Session, "released", replace(RELEASED, manifest=Manifest((layer,))))
    read, attempts = os.preadv, list[int]()

    def failing(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if offset == moment:
            attempts.append(offset)
            raise OSError(number, os.strerror(number))
        return read(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    resumed: list[object] = []

    def unpack(source: Source) -> None:
        while source.read(2**16):
            """Nothing is kept."""

    engine = SimpleNamespace(unpack=unpack, resume=resumed.append)
    me = SimpleNamespace(identity=SimpleNamespace(launch=None), key=KEY, verifier=None)
    machine = SimpleNamespace(restoring=tmp_path / "restoring", raise_network=lambda: None)
    child = Child(me, engine, machine)  # type: ignore[arg-type]
    with pytest.raises(VmMustEnd, match=f"cannot be read: {os.strerror(number)}") as caught:
        child.restore(protocol.Restore(b"grant", "sf-0"), lambda *_: None)
    assert caught.value.exit_code == 13
    assert attempts == [moment]
    assert not resumed
