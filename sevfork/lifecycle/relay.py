"""Events of children, brought to their parent: by whoever runs ``sevfork events`` or ``wait``.

The host is the messenger and nothing more. An EVENT is sealed for the parent, which takes each once
and in order; that a child is lost is the host's word, and the parent has it as such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from sevfork.domain import metadata_xml
from sevfork.domain.metadata import Phase
from sevfork.domain.spec import GuestSpec
from sevfork.domain.xml import spec_from_xml
from sevfork.errors import Lost, NotAuthentic, RefusedByGuest, WrongState
from sevfork.host.hypervisor import Domain, Hypervisor
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.listen import Ear
from sevfork.lifecycle.parent import Parent, parent_of
from sevfork.wire import protocol
from sevfork.wire.protocol import Entry, Life

_LISTENERS = 8
_DELIVER_S = 60.0
# What a parent keeps has 4 pages; one that goes on for ever is not read for ever.
_MAX_PAGES = 8

# Which fork, as metadata has it, and which child of it.
Place = tuple[str, int]


@dataclass(frozen=True)
class Event:
    """What a parent was told; ``name`` is the child's, where the host still has such a VM."""

    entry: Entry
    name: str | None


@dataclass
class Relay:
    """Between one parent and its children. ``after`` is the last entry that was read.

    With ``only``, children with these UUIDs are listened to and no others. ``note`` hears, once, of
    a child whose events its parent does not take.
    """

    job: Job
    parent: GuestSpec
    lost_after_s: float
    note: Callable[[str], None]
    only: frozenset[str] | None = None
    after: int = 0
    _noted: set[str] = field(default_factory=set)
    _ears: dict[str, Ear] = field(default_factory=dict)

    def round(self) -> list[Event]:
        """Listen to every child, tell the parent what is new, and read what it has noted since.

        Raises TimedOut and WrongState of the parent; what is wrong with a child is told as LOST.
        """
        return self.deliver(*self._listen())

    @property
    def has_parent(self) -> bool:
        """Whether the parent is there still, be it paused."""
        try:
            return self.job.hypervisor.find(self.parent.uuid).state.active
        except WrongState:
            return False

    def deliver(self, lives: dict[Place, Life], lost: set[Place]) -> list[Event]:
        """Tell the parent what these children say, and read what it has noted since."""
        job = replace(self.job, deadline=self.job.deadline.within(_DELIVER_S))
        with parent_of(job, self.parent) as parent:
            # No fork is under way now: whoever the parent knows and libvirt does not is gone.
            children = children_of(job.hypervisor, self.parent)
            named = {place_of(domain): domain for domain in children}
            family = parent.ask(protocol.ListFamily(), protocol.Family).children
            for child in family:
                place = (child.fork_id.hex(), child.index)
                gone = place not in named or not named[place].state.active
                self._tell(parent, child, lives.get(place), lost=gone or place in lost)
            entries = list(read_chronicle(parent, self.after))
        self.after = max([self.after, *(entry.number for entry in entries)])
        return [Event(entry, _name(named, entry)) for entry in entries]

    def _tell(
        self, parent: Parent, child: protocol.KnownChild, life: Life | None, *, lost: bool
    ) -> None:
        """What the parent has not heard of this child yet. A child's trouble is that child's."""
        try:
            for happened in life.events[child.heard :] if life else []:
                event = protocol.RelayEvent(child.fork_id, child.index, happened.sealed)
                parent.ask(event, protocol.Done)
        except (NotAuthentic, RefusedByGuest) as exc:
            self._note_once(f"an event of a child was not taken by '{parent.name}': {exc.message}")
        if lost and not child.over:
            parent.ask(protocol.ReportLost(child.fork_id, child.index), protocol.Done)

    def _note_once(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self.note(text)

    def _listen(self) -> tuple[dict[Place, Life], set[Place]]:
        """What each child says, and those that are lost. Nobody's channel is held meanwhile.

        Some at once, so that one that says nothing does not keep its siblings from being heard.
        """
        domains = children_of(self.job.hypervisor, self.parent)
        heard = [each for each in domains if self.only is None or each.uuid in self.only]
        with ThreadPoolExecutor(_LISTENERS) as pool:
            try:
                told = list(pool.map(self._hear, heard))
            except BaseException:
                self.job.cancelled.set()
                raise
        lives = {place_of(child): life for child, life in zip(heard, told, strict=True) if life}
        spoke = {place: life for place, life in lives.items() if isinstance(life, Life)}
        return spoke, lives.keys() - spoke.keys()

    def _hear(self, domain: Domain) -> Life | Lost | None:
        ear = self._ear(domain)
        try:
            return ear.hear(self.job) if ear else None
        except Lost as exc:
            return exc

    def _ear(self, domain: Domain) -> Ear | None:
        """The same in each round; None for a VM that has gone meanwhile."""
        if domain.uuid not in self._ears:
            try:
                spec = spec_from_xml(self.job.hypervisor.xml(domain.uuid))
            except WrongState:
                return None
            self._ears[domain.uuid] = Ear(spec, self.lost_after_s)
        return self._ears[domain.uuid]


def read_chronicle(parent: Parent, after: int) -> Iterator[Entry]:
    """What the parent has noted after the entry with this number."""
    for _ in range(_MAX_PAGES):
        page = parent.ask(protocol.ReadChronicle(after), protocol.Chronicle).entries
        if not page:
            return
        after = max(after, *(entry.number for entry in page))
        yield from page


def children_of(hypervisor: Hypervisor, parent: GuestSpec) -> tuple[Domain, ...]:
    """The VMs that were forked from this one, whether or not they run."""
    return tuple(_children(hypervisor.domains(), parent.uuid))


def _children(domains: Iterable[Domain], parent: str) -> Iterator[Domain]:
    for domain in domains:
        if domain.metadata_xml is None:
            continue
        try:
            metadata = metadata_xml.read(domain.metadata_xml)
        except WrongState:
            continue  # `sevfork ls` says what is wrong with it
        if metadata.parent == parent and metadata.phase is Phase.READY and metadata.fork_id:
            yield domain


def place_of(domain: Domain) -> Place:
    metadata = metadata_xml.read(domain.metadata_xml or "")
    return metadata.fork_id or "", metadata.index or 0


def _name(named: dict[Place, Domain], entry: Entry) -> str | None:
    domain = named.get((entry.fork_id.hex(), entry.index))
    return domain.name if domain else None
