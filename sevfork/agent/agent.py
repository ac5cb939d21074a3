"""One agent: what it answers to each request, in each state that its VM can be in."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from sevfork import __version__
from sevfork.agent.audit import AuditLog
from sevfork.agent.child import Child, ChildRequest
from sevfork.agent.chronicle import Chronicle, Home
from sevfork.agent.container.adopt import Ended
from sevfork.agent.container.output import Piece
from sevfork.agent.container.session import Sessions
from sevfork.agent.engine import Engine
from sevfork.agent.evidence.endorsed import EndorsedProvider, Shelf
from sevfork.agent.evidence.provider import EvidenceProvider
from sevfork.agent.forks import Forks, Party
from sevfork.agent.identity import Identity, PolicyVerifier, establish
from sevfork.agent.life import Life
from sevfork.agent.link import HostGone
from sevfork.agent.machine import Machine
from sevfork.agent.measured import Measured
from sevfork.agent.memory_use import state_bytes
from sevfork.agent.restarts import Restarts
from sevfork.agent.serve import OnProgress, VmEnds, VmMustEnd
from sevfork.agent.unexpected import place_of
from sevfork.agent.vm_state import CurrentState
from sevfork.errors import RefusedByGuest, SevforkError, TimedOut, WrongState
from sevfork.handshake import InstanceKey, Lineage, attest_report_data, owner_session
from sevfork.handshake.launch import Role
from sevfork.wire import protocol
from sevfork.wire.protocol import LifeEvent, WorkloadPhase

log = logging.getLogger(__name__)

NONCE_SIZES = range(16, 65)


Inside = protocol.ExecStart | protocol.ExecExchange | protocol.ExecEnd
OfWorkload = Inside | protocol.ReadLogs | protocol.OwnerAsks | protocol.StopWorkload


class RunningWorkload(Home, Protocol):
    """What the agent asks of the container that its workload runs in."""

    def start(self) -> None: ...

    def wait_ready(self) -> None: ...

    def ended(self) -> Ended: ...

    def stop(self, force: bool) -> None: ...

    def restart(self) -> None: ...

    def begin(self, argv: Sequence[str], streams: tuple[int, int, int]) -> int: ...

    def read_output(self, offset: int, limit: int) -> Piece: ...


class Agent:
    """Handles requests one at a time; the workload starts on a thread of its own."""

    def __init__(
        self,
        measured: Measured,
        key: InstanceKey,
        provider: EvidenceProvider,
        workload: RunningWorkload,
        engine: Engine,
        machine: Machine,
    ) -> None:
        self._measured, self._key = measured, key
        self._shelf = Shelf(measured.technology)
        self._provider = EndorsedProvider(provider, self._shelf)
        self._workload, self._engine, self._machine = workload, engine, machine
        self._verifier = PolicyVerifier(measured.policy, self._shelf)
        self._state = CurrentState()
        self._identity: Identity | None = None
        self._child: Child | None = None
        self._forks: Forks | None = None
        self._life = Life()
        self._chronicle = Chronicle(workload, measured.workload.on_child_event)
        self._audit = AuditLog(key)
        self._sessions = Sessions(workload.begin)
        self._restarts = Restarts(workload, self._restarting, self._sessions.tend)

    def handle(self, request: protocol.Request, progress: OnProgress) -> protocol.Reply:
        """The reply; raises a SevforkError for what cannot or must not be done, and records it."""
        try:
            return self._answer(request, progress)
        except (HostGone, VmEnds, VmMustEnd):
            raise
        except SevforkError as error:
            self._audit.refused(request, error)
            raise
        except Exception:
            self._audit.refused(request, SevforkError("the agent failed unexpectedly"))
            raise

    def _answer(self, request: protocol.Request, progress: OnProgress) -> protocol.Reply:
        match request:
            case protocol.GetStatus():
                return self._status()
            case protocol.Events():
                return self._events()
            case protocol.ShutDown():
                raise VmEnds(self._shut_down())
            case protocol.ReadClock():
                return protocol.Clock(time.time_ns())
            case protocol.Configure():
                self._configure(request)
                return self._status()
            case protocol.Endorse(certificates=certificates):
                self._shelf.put(certificates)
                return protocol.Done()
            case protocol.ReadAudit(nonce=nonce):
                return self._audit.read(nonce)
            case _ if isinstance(request, OfWorkload):
                return self._of_workload(request)
            case protocol.Attest(nonce=nonce):
                return self._attest(nonce)
            case protocol.Capture() | protocol.UpdateSnapshot():
                self._require_nobody_inside()
                return self._capture(request, progress)
            case protocol.Reserve():
                self._require_nobody_inside()
                return self._parent().handle(request)
            case (
                protocol.RelayOffer()
                | protocol.Hold()
                | protocol.Absorb()
                | protocol.RelayCall()
                | protocol.Restore()
                | protocol.Activate()
            ):
                return self._as_child(request, progress)
            case _:
                return self._parent().handle(request)

    def forget_expired(self) -> None:
        """Erase the keys of OFFERs whose time is over, whether or not anybody asks for anything.

        And end a command inside that whoever ran it has left.
        """
        self._sessions.forget()
        if self._forks is not None:
            self._forks.forget_expired()

    def _status(self) -> protocol.Status:
        state = self._state.now
        return protocol.Status(
            version=__version__,
            technology=self._measured.technology.value,
            phase=state.phase,
            detail=state.detail,
            uncapturable=state.uncapturable,
            role=self._identity.config.role.name.lower() if self._identity else None,
            generation=state.generation,
            instance_key=self._key.public,
            policy_digest=self._measured.policy.digest,
            fork_policy=self._measured.policy.fork,
            workload=self._measured.workload.name,
            state_bytes=state_bytes(),
            launch_config=self._identity.launch.launch_config if self._identity else b"",
            logs=self._measured.workload.logs or "",
            exec_policy=self._measured.workload.exec or "",
            printed=state.printed,
        )

    def _events(self) -> protocol.Life:
        """The workload's end is noticed when somebody asks: its first process waits for that."""
        phase = self._state.now.phase
        runs = phase is WorkloadPhase.READY and not self._life.has(LifeEvent.EXITED)
        if runs and not self._workload.is_running and not self._restarts.follows:
            self._restarts.refrain()
            self._life.note(LifeEvent.EXITED, self._returncode())
        return protocol.Life(phase, self._life.events)

    def _stop(self, force: bool) -> protocol.Life:
        """Raises WrongState while there is no workload that could end by itself."""
        phase = self._state.now.phase
        if phase not in (WorkloadPhase.READY, WorkloadPhase.STARTING, WorkloadPhase.FAILED):
            raise WrongState(f"there is no workload to be stopped: it is {phase}")
        self._restarts.refrain()
        if self._workload.is_running:
            self._workload.stop(force)
        return self._events()

    def _restarting(self, begins: bool) -> None:
        """Nobody forks a workload that does not answer yet."""
        phase = WorkloadPhase.STARTING if begins else WorkloadPhase.READY
        self._state.change(phase=phase)

    def _watch_over_it(self) -> None:
        if self._measured.workload.restart == "on-failure":
            self._restarts.watch()

    def _of_workload(self, request: OfWorkload) -> protocol.Reply:
        match request:
            case protocol.ReadLogs():
                return self._logs(request)
            case protocol.OwnerAsks(question=question):
                return self._tell_owner(question)
            case protocol.StopWorkload(force=force):
                return self._stop(force)
            case _:
                return self._inside(request)

    def _inside(self, request: Inside) -> protocol.Reply:
        """Raises RefusedByGuest where the image lets nobody run commands, and WrongState."""
        if self._measured.workload.exec != "host":
            raise RefusedByGuest(
                "this VM's image lets nobody run commands inside",
                hint='build one with exec = "host" in the workload file',
            )
        match request:
            case protocol.ExecStart(argv=argv):
                self._require_ready()
                self._sessions.start(argv)
            case protocol.ExecExchange(data=data, close=close):
                heard = self._sessions.exchange(data, close)
                return protocol.ExecHeard(heard.taken, heard.stdout, heard.stderr, heard.returncode)
            case protocol.ExecEnd():
                self._sessions.end()
        return protocol.Done()

    def _require_nobody_inside(self) -> None:
        """CRIU could not place a process that runc has put beside the workload's."""
        if command := self._sessions.command:
            raise WrongState(
                f"a command runs inside this VM: {command}", hint="fork when it has ended"
            )

    def _shut_down(self) -> protocol.Life:
        """What runs, or has run, a workload says so; asked again, it says no more."""
        life = self._events()
        if life.phase is WorkloadPhase.READY and not self._life.has(LifeEvent.ENDING):
            self._life.note(LifeEvent.ENDING)
        return protocol.Life(life.phase, self._life.events)

    def _returncode(self) -> int | None:
        try:
            self._sessions.tend()
            return self._workload.ended().returncode
        except TimedOut:
            raise
        except SevforkError as exc:
            log.warning("the workload has ended: %s", exc)
            return None

    def _configure(self, request: protocol.Configure) -> None:
        """Once; the same configuration again changes nothing.

        An agent that was started again finds its workload running. It has no key, no OFFER and no
        lineage any more: the workload serves on, and cannot be forked.
        """
        if self._identity is not None:
            if self._identity.launch.launch_config != request.launch_config:
                raise RefusedByGuest("this VM is configured already, as something else")
            return
        if self._workload.is_running:
            raise WrongState(
                "the agent was started again under its workload, which cannot be forked any more",
                hint="the workload serves on; start a new VM to fork from",
            )
        self._machine.step_clock(request.clock_step_ns)
        identity = establish(request.launch_config, self._provider, self._verifier, self._key)
        self._identity = identity
        me = self._me(identity, Lineage(self._key.public))
        if identity.config.role is Role.ROOT:
            self._forks = Forks(me, self._engine, self._chronicle, self._audit)
            self._state.change(phase=WorkloadPhase.STARTING)
            threading.Thread(target=self._start, name="workload", daemon=True).start()
        else:
            self._child = Child(me, self._engine, self._machine)
            self._state.change(phase=WorkloadPhase.WAITING)
            threading.Thread(target=self._engine.warm_up, name="warm-up", daemon=True).start()

    def _me(self, identity: Identity, lineage: Lineage) -> Party:
        return Party(identity, self._key, lineage, self._verifier, self._provider)

    def _start(self) -> None:
        """Start the workload, wait for it, and try whether it can be captured."""
        try:
            self._machine.raise_network()
            self._workload.start()
            self._workload.wait_ready()
            self._state.change(phase=WorkloadPhase.STARTING, detail="trying a capture")
            uncapturable = self._engine.probe()
        except SevforkError as exc:
            log.warning("the workload did not start: %s", exc)
            failed = WorkloadPhase.FAILED
            self._state.change(phase=failed, detail=exc.message, printed=exc.printed)
        except Exception as exc:
            log.error("the workload did not start: %s", place_of(exc))
            detail = "unexpectedly; see the VM's serial log"
            self._state.change(phase=WorkloadPhase.FAILED, detail=detail)
        else:
            self._life.note(LifeEvent.READY)
            self._state.change(phase=WorkloadPhase.READY, detail="", uncapturable=uncapturable)
            self._watch_over_it()

    def _as_child(self, request: ChildRequest, progress: OnProgress) -> protocol.Reply:
        child = self._joining()
        reply = child.handle(request, progress)
        if isinstance(reply, protocol.Held):
            self._state.change(phase=WorkloadPhase.HOLDING)
        if isinstance(reply, protocol.Restored):
            self._become_parent(child, reply.generation)
        return reply

    def _become_parent(self, child: Child, generation: int) -> None:
        if self._identity is None or child.lineage is None:
            raise WrongState("a child that was not configured cannot have been restored")
        me = self._me(self._identity, child.lineage)
        self._forks = Forks(me, self._engine, self._chronicle, self._audit)
        self._child, self._life = None, child.life
        self._state.change(phase=WorkloadPhase.READY, generation=generation)
        self._watch_over_it()

    def _logs(self, request: protocol.ReadLogs) -> protocol.Logs:
        """Raises RefusedByGuest where the image lets nobody, or its owner only, read them."""
        if self._measured.workload.logs == "guest":
            raise RefusedByGuest(
                "what this workload prints is for its owner to read",
                hint="to be run by its owner: sevfork logs {vm} --owner-key FILE",
            )
        return self._printed(request)

    def _printed(self, request: protocol.ReadLogs) -> protocol.Logs:
        piece = self._workload.read_output(request.offset, request.limit)
        return protocol.Logs(piece.start, piece.data, piece.end)

    def _tell_owner(self, encoded: bytes) -> protocol.OwnerTold:
        """Raises RefusedByGuest unless its owner asks this very VM, and NotAuthentic."""
        question = owner_session.Question.decode(encoded)
        owner = self._identity.config.owner if self._identity else None
        question.check(owner, self._key.public)
        request = protocol.decode_request(question.request)
        if not isinstance(request, protocol.ReadLogs):
            raise RefusedByGuest("an owner may ask what the workload prints, and nothing else")
        reply = protocol.encode(self._printed(request))
        return protocol.OwnerTold(owner_session.answer(encoded, reply, self._key))

    def _attest(self, nonce: bytes) -> protocol.Attested:
        if len(nonce) not in NONCE_SIZES:
            raise RefusedByGuest("a nonce has 16 to 64 bytes")
        claims = protocol.encode(self._status())
        evidence = self._provider.evidence(attest_report_data(nonce, claims))
        return protocol.Attested(evidence.encode(), claims)

    def _capture(
        self, request: protocol.Capture | protocol.UpdateSnapshot, progress: OnProgress
    ) -> protocol.Captured | protocol.SnapshotMade:
        """Whatever the trial at start-up found: it may have been of that moment only."""
        self._require_ready()
        parent = self._parent()
        reply: protocol.Captured | protocol.SnapshotMade
        if isinstance(request, protocol.UpdateSnapshot):
            reply = parent.update_snapshot(request, progress)
        else:
            reply = parent.capture(request, progress)
        self._state.change(uncapturable=None)
        return reply

    def _require_ready(self) -> None:
        state = self._state.now
        if state.phase is not WorkloadPhase.READY:
            raise WrongState(f"the workload is not ready to be forked: it is {state.phase}")
        if not self._workload.is_running:
            raise WrongState("the workload has ended")

    def _parent(self) -> Forks:
        if self._forks is None and self._identity is None and self._workload.is_running:
            raise WrongState("the agent was started again: it has no children any more")
        if self._forks is None:
            raise WrongState("this VM runs no workload yet")
        return self._forks

    def _joining(self) -> Child:
        if self._child is None:
            raise RefusedByGuest("this VM is not a child that waits for its parent")
        return self._child
