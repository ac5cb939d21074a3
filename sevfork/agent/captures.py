"""Captures of this VM, sealed into volumes: one by itself, or the snapshot that is kept current.

A snapshot is a chain of layers in one volume: a base, and updates that hold what was written since
the layer before. Its keys live here, in RAM, for as long as it is kept.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

from msgspec import Struct

from sevfork.agent.engine import CaptureCost, Engine, OnStep, Sink, TrackingLost
from sevfork.agent.serve import OnProgress
from sevfork.agent.volume import find_volume
from sevfork.handshake import Layer, Manifest
from sevfork.seal import NO_BASE, BlockDevice, SealedImage, SealWriter, Window
from sevfork.unshown import Unshown
from sevfork.wire import protocol
from sevfork.wire.protocol import Step

log = logging.getLogger(__name__)

# A child unseals as many layers, and a GRANT names at most 64 (``MAX_LAYERS``). A fork's own
# layer comes on top.
MAX_KEPT_LAYERS = 32
# What later layers have replaced is dead, but read by every child: begun anew beyond this.
_MOST_DEAD = 1.0
_KEY_SIZE = 32
_REPORT_EVERY_BYTES = 4 * 2**20

_Capture = Callable[[Sink, OnStep], CaptureCost]


class Captured(Struct, frozen=True):
    """One capture, sealed; ``state_bytes`` is its plaintext. ``begun_anew`` says why it is a base
    where an update was asked for, and is empty otherwise."""

    manifest: Manifest
    cost: CaptureCost
    state_bytes: int
    begun_anew: str = ""

    @property
    def sealed_bytes(self) -> int:
        return self.manifest.layers[-1].chunk_count * 2**20


class _Chain(Unshown, Struct, frozen=True):
    serial: str
    layers: tuple[Layer, ...]

    @property
    def end(self) -> int:
        return self.layers[-1].end

    @property
    def manifest(self) -> Manifest:
        return Manifest(self.layers)

    def why_anew(self) -> str:
        """Why the next layer should be a base; empty where an update will do."""
        base, *updates = (layer.chunk_count for layer in self.layers)
        if len(self.layers) >= MAX_KEPT_LAYERS:
            return f"it had {len(self.layers)} layers"
        # Each update has a chunk that is not full.
        if sum(updates) - len(updates) > base * _MOST_DEAD:
            return "its updates had become larger than its base"
        return ""


class Captures:
    """Seals what the engine captures, and keeps the snapshot's chain. One call at a time."""

    def __init__(self, engine: Engine, vm_id: bytes, generation: int) -> None:
        """``vm_id`` and ``generation`` stand in the headers: the VM's, and its children's."""
        self._engine, self._vm_id, self._generation = engine, vm_id, generation
        self._chain: _Chain | None = None

    @property
    def manifest(self) -> Manifest | None:
        """The snapshot as it is; None where none is kept."""
        return self._chain.manifest if self._chain else None

    def is_kept_in(self, serial: str) -> bool:
        """Whether the volume with this serial holds the snapshot."""
        return self._chain is not None and self._chain.serial == serial

    def once(self, serial: str, progress: OnProgress) -> Captured:
        """A capture by itself, at the beginning of a volume. A snapshot in another one ends.

        It does so because a capture makes the kernel forget what was written since the last one.
        """
        if self._chain is not None:
            self.drop()
        layer, cost, state_bytes = self._seal(serial, 0, NO_BASE, self._engine.capture, progress)
        return Captured(Manifest((layer,)), cost, state_bytes)

    def update(self, serial: str, progress: OnProgress) -> Captured:
        """The snapshot's next layer; its first one where it must be begun anew."""
        chain = self._chain if self._chain and self._chain.serial == serial else None
        begun_anew = chain.why_anew() if chain else "there was none in this volume"
        if chain and not begun_anew:
            try:
                return self._extend(chain, progress)
            except TrackingLost as exc:
                begun_anew = exc.message
        log.info("the snapshot is begun anew: %s", begun_anew)
        # Behind the old one, which warm children may be reading.
        start = chain.end if chain else 0
        layer, cost, state_bytes = self._seal(serial, start, NO_BASE, self._keeping, progress)
        self._chain = _Chain(serial, (layer,))
        return Captured(self._chain.manifest, cost, state_bytes, begun_anew)

    def update_snapshot(
        self, serial: str, progress: OnProgress
    ) -> tuple[protocol.SnapshotMade, Manifest]:
        """``update``, and how the snapshot stands then."""
        captured = self.update(serial, progress)
        made = protocol.SnapshotMade(
            layers=len(captured.manifest.layers),
            begun_anew=captured.begun_anew,
            pause_ms=captured.cost.pause_ms,
            state_bytes=captured.state_bytes,
            sealed_bytes=captured.sealed_bytes,
            free_bytes=_free_bytes(serial, captured.manifest.layers[-1]),
            kept_bytes=self._engine.kept_bytes,
        )
        return made, captured.manifest

    def drop(self) -> None:
        """Forget the snapshot and its keys."""
        self._chain = None
        self._engine.forget()

    def _extend(self, chain: _Chain, progress: OnProgress) -> Captured:
        base_digest = chain.layers[-1].header_digest
        layer, cost, state_bytes = self._seal(
            chain.serial, chain.end, base_digest, self._engine.update, progress
        )
        self._chain = _Chain(chain.serial, (*chain.layers, layer))
        return Captured(self._chain.manifest, cost, state_bytes)

    def _keeping(self, sink: Sink, on_step: OnStep) -> CaptureCost:
        return self._engine.capture(sink, on_step, keep=True)

    def _seal(
        self, serial: str, start: int, base_digest: bytes, capture: _Capture, progress: OnProgress
    ) -> tuple[Layer, CaptureCost, int]:
        image_key = secrets.token_bytes(_KEY_SIZE)
        with (
            BlockDevice(find_volume(serial), writable=True) as device,
            SealWriter(
                Window(device, start),
                image_key=image_key,
                vm_id=self._vm_id,
                generation=self._generation,
                base_digest=base_digest,
            ) as writer,
        ):
            sink = _CountingSink(writer, progress)
            cost = capture(sink, sink.enter)
            sink.enter(Step.FLUSH)
            return _layer(image_key, start, writer.finish()), cost, sink.written


def _layer(image_key: bytes, start: int, sealed: SealedImage) -> Layer:
    return Layer(
        image_key=image_key,
        header_digest=sealed.header_digest,
        chunk_count=sealed.chunk_count,
        image_id=sealed.image_id,
        start=start,
    )


def _free_bytes(serial: str, last: Layer) -> int:
    """Room behind the snapshot's last layer in its volume."""
    with BlockDevice(find_volume(serial)) as device:
        return max(0, device.size_bytes - last.end)


class _CountingSink:
    """Passes on to the sealed image, and tells the host how far it is."""

    def __init__(self, writer: SealWriter, progress: OnProgress) -> None:
        self._writer, self._progress = writer, progress
        self._step, self._told = Step.CAPTURE, 0
        self.written = 0

    def enter(self, step: Step) -> None:
        self._step = step
        self._progress(step, self.written, 0)

    def write(self, data: bytes) -> int:
        self._writer.write(data)
        self.written += len(data)
        if self.written - self._told >= _REPORT_EVERY_BYTES:
            self._told = self.written
            self._progress(self._step, self.written, 0)
        return len(data)
