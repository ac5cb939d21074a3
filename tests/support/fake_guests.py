"""Guests in memory: the real agent on both sides of a real fork, without CRIU and QEMU."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest

from sevfork.agent.agent import Agent
from sevfork.agent.container.adopt import Ended
from sevfork.agent.container.output import Piece, Tail
from sevfork.agent.engine import CaptureCost, Generation, OnStep, Sink, Source, TrackingLost
from sevfork.agent.measured import Measured
from sevfork.agent.serve import VmEnds, VmMustEnd
from sevfork.agent.workload import Workload
from sevfork.attest.evidence import Evidence
from sevfork.attest.guest_policy import GuestPolicy, guest_policy_toml
from sevfork.domain.xml import spec_from_xml
from sevfork.errors import RefusedByGuest, SevforkError
from sevfork.handshake import InstanceKey
from sevfork.host.hypervisor import Channel, ChannelBusy, ChannelClosed, DomainState, Volume
from sevfork.simulated.launch import simulated_report
from sevfork.simulated.processor import SimulatedProcessor
from sevfork.technology import Technology
from sevfork.wire import protocol
from sevfork.wire.lines import Frame, Kind, LineDecoder
from tests.support.fake_hypervisor import FakeHypervisor

# More than one chunk of a sealed image, and little more: each fork writes it past the page cache.
STATE = os.urandom(2**20 + 2**19)
WORKLOAD = b'name = "w"\ncommand = ["/bin/w"]\nports = [6379]\nready = { tcp = 6379 }\n'


_PAUSES = (
    "sevfork.host.agent_client._READY_POLL_S",
    "sevfork.lifecycle.agents._BUSY_POLL_S",
    "sevfork.lifecycle.fork.capture._POLL_S",
    "sevfork.lifecycle.wait._POLL_S",
)


def shorten_pauses(patched: pytest.MonkeyPatch) -> None:
    """Between two looks at something: guests in memory answer at once, or never."""
    for pause_s in _PAUSES:
        patched.setattr(pause_s, 0.01)


class FakeEngine:
    """A workload whose whole state is some bytes. ``on_resume`` may raise."""

    def __init__(self, guest: FakeGuest) -> None:
        self._guest = guest
        self._kept: bytes | None = None
        self._layers = 0

    def probe(self) -> str | None:
        return self._guest.uncapturable

    def capture(self, sink: Sink, on_step: OnStep, *, keep: bool = False) -> CaptureCost:
        self._kept = None
        on_step(protocol.Step.COPY)
        if self._guest.refuses_capture:
            raise RefusedByGuest(self._guest.refuses_capture)
        sink.write(self._guest.state)
        size = len(self._guest.state)
        self._kept = self._guest.state if keep else None
        return CaptureCost(12.0, (), size, size, 0, 0)

    def update(self, sink: Sink, on_step: OnStep) -> CaptureCost:
        """What has been added since is written, or all, and behind how much of what was."""
        kept, self._kept = self._kept, None
        if kept is None:
            raise TrackingLost("there is no earlier capture that could be updated")
        on_step(protocol.Step.COPY)
        if self._guest.refuses_capture:
            raise RefusedByGuest(self._guest.refuses_capture)
        state = self._guest.state
        same = len(kept) if state.startswith(kept) else 0
        sink.write(same.to_bytes(8, "big") + state[same:])
        self._kept = state
        size = len(state) - same
        return CaptureCost(12.0, (), size, size, 0, 0)

    def forget(self) -> None:
        self._kept = None

    @property
    def kept_bytes(self) -> int:
        return len(self._kept or b"")

    def unpack(self, source: Source) -> None:
        layer = b"".join(iter(lambda: source.read(2**16), b""))
        if self._layers:
            layer = self._guest.unpacked[: int.from_bytes(layer[:8], "big")] + layer[8:]
        self._guest.unpacked = layer
        self._layers += 1

    def discard(self) -> None:
        self._guest.unpacked, self._layers = b"", 0

    def settle(self) -> None:
        pass

    def resume(self, generation: Generation) -> None:
        self._guest.on_resume()
        self._guest.state, self._guest.generation = self._guest.unpacked, generation.counter
        self._guest.start()

    def warm_up(self) -> None:
        pass


def no_commands(argv: Sequence[str], _streams: object) -> int:
    raise RefusedByGuest(f"'{argv[0]}' cannot be run")


class FakeGuest:
    """One VM: its agent, its state, and whether its network is up."""

    def __init__(self, house: FakeHouse, uuid: str) -> None:
        self.state, self.unpacked, self.generation = b"", b"", 0
        self.uncapturable = house.uncapturable
        self.refuses_capture = ""
        self.clock_steps_ns: list[int] = []
        self.is_running = self.network_up = False
        self.returncode: int | None = None
        self.children_file = b""
        self.output = Tail()
        self.stops: list[bool] = []
        self.on_begin: Callable[[Sequence[str], tuple[int, int, int]], int] = no_commands
        self.ignores_stop = False
        self.restarts = 0
        self.hooks: list[tuple[tuple[str, ...], dict[str, str]]] = []
        self.on_resume: Callable[[], None] = house.on_resume
        self.spec = spec_from_xml(house.xml(uuid))
        self.technology = house.measured.technology
        self.lock = threading.Lock()
        self.engine = FakeEngine(self)
        self.restoring = house.pool / f"{uuid}.restoring"
        self.agent = Agent(house.measured, InstanceKey(), self, self, self.engine, self)

    def evidence(self, report_data: bytes) -> Evidence:
        report = simulated_report(self.spec.metadata)
        assert report is not None
        return Evidence.decode(report(report_data))

    def start(self) -> None:
        self.is_running = True

    def wait_ready(self) -> None:
        pass

    def ended(self) -> Ended:
        if self.returncode is None:
            raise SevforkError("how the process ended is not known")
        return Ended(self.returncode)

    def end(self, returncode: int | None) -> None:
        """The workload ends; None: in a way that its agent cannot find out."""
        self.is_running, self.returncode = False, returncode

    def exec(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, *, timeout_s: float
    ) -> Ended:
        self.hooks.append((tuple(argv), dict(env or {})))
        return Ended(0)

    def tell(self, line: bytes) -> int:
        self.children_file += line
        return len(self.children_file)

    def tell_anew(self, lines: bytes) -> None:
        self.children_file = lines

    def restart(self) -> None:
        self.restarts += 1
        self.start()

    def stop(self, force: bool) -> None:
        self.stops.append(force)
        if force or not self.ignores_stop:
            self.end(-9 if force else 0)

    def begin(self, argv: Sequence[str], streams: tuple[int, int, int]) -> int:
        return self.on_begin(argv, streams)

    def read_output(self, offset: int, limit: int) -> Piece:
        return self.output.read(offset, limit)

    def raise_network(self) -> None:
        self.network_up = True

    def step_clock(self, nanoseconds: int) -> None:
        self.clock_steps_ns.append(nanoseconds)


class FakeChannel:
    """A channel to an agent that answers at once, in the caller's thread."""

    def __init__(self, house: FakeHouse, uuid: str) -> None:
        self._house, self._uuid = house, uuid
        self._decoder, self._arrived = LineDecoder(), list[bytes]()
        self._ended = False

    def send(self, data: bytes, timeout_s: float = 30.0) -> None:
        if not self._house.state_of(self._uuid).active:
            raise ChannelClosed("the VM closed the channel: it has ended")
        if self._house.state_of(self._uuid) is not DomainState.RUNNING:
            return  # it lies in the port until the VM goes on
        for frame in self._decoder.feed(data):
            self._arrived.append(self._answer(frame).encode_line())

    def receive(self, timeout_s: float) -> bytes:
        if self._arrived:
            return self._arrived.pop(0)
        if self._ended or not self._house.state_of(self._uuid).active:
            raise ChannelClosed("the VM closed the channel: it has ended")
        time.sleep(0.01)
        return b""

    def close(self) -> None:
        self._house.busy.discard(self._uuid)

    def _answer(self, frame: Frame) -> Frame:
        request = protocol.decode_request(frame.payload)
        self._house.heard.append(request)

        def progress(step: protocol.Step, done: int, total: int) -> None:
            message = protocol.encode(protocol.Progress(step, done, total))
            self._arrived.append(Frame(Kind.PROGRESS, frame.request_id, message).encode_line())

        try:
            with self._house.guests[self._uuid].lock:
                agent = self._house.guests[self._uuid].agent
                reply = agent.handle(request, progress)
        except VmEnds as ending:
            self._house.end(self._uuid)
            return Frame(Kind.REPLY, frame.request_id, protocol.encode(ending.reply))
        except SevforkError as error:
            if isinstance(error, VmMustEnd):
                self._house.end(self._uuid)
            return protocol.failure_frame(frame.request_id, error)
        return Frame(Kind.REPLY, frame.request_id, protocol.encode(reply))


class FakeHouse(FakeHypervisor):
    """A hypervisor in memory whose VMs have agents. ``pool`` is a real directory."""

    def __init__(self, pool: Path, measured: Measured, *, kvm_console: bytes | None = None) -> None:
        super().__init__(kvm_console=kvm_console)
        self.pool = pool
        self.guests: dict[str, FakeGuest] = {}
        self.busy: set[str] = set()
        self.heard: list[protocol.Request] = []
        self.on_resume: Callable[[], None] = lambda: None
        self.plugged: list[str] = []
        self.uncapturable: str | None = None  # what the trial captures of new guests say
        self.measured = measured
        create = self.storage.create

        def create_sealed(name: str, size_bytes: int) -> Volume:
            if not name.endswith((".sealed", ".snapshot")):
                return create(name, size_bytes)
            create(name, 0)
            with self.sealed(name).open("wb") as file:
                file.truncate(size_bytes)
            return Volume(name, self.storage.path_of(name), size_bytes)

        self.storage.create = create_sealed  # type: ignore[method-assign]

    def sealed(self, name: str) -> Path:
        """The file that stands for a sealed volume; its serial number begins its name."""
        return self.pool / name.partition(".")[0]

    def start(self, uuid: str) -> None:
        super().start(uuid)
        self.guests[uuid] = self.new_guest(uuid)

    def new_guest(self, uuid: str) -> FakeGuest:
        return FakeGuest(self, uuid)

    def attach_device(self, uuid: str, xml: str) -> None:
        super().attach_device(uuid, xml)
        self.plugged.append(uuid)

    def open_channel(self, uuid: str) -> Channel:
        if uuid in self.busy:
            raise ChannelBusy("another command talks to the VM's agent")
        self.busy.add(uuid)
        return FakeChannel(self, uuid)


@cache
def measured_for(processor: SimulatedProcessor) -> Measured:
    return Measured(Technology.SIMULATED, policy_for(processor), Workload.load(WORKLOAD))


def policy_for(processor: SimulatedProcessor) -> GuestPolicy:
    built = datetime(2026, 1, 1, tzinfo=UTC)
    text = guest_policy_toml(Technology.SIMULATED, "anyone", [processor.root_fingerprint], built)
    return GuestPolicy.decode(text.encode())
