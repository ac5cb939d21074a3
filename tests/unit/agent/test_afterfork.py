"""After-fork hooks: all in order, each in its time, the first failure ends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from sevfork.agent.afterfork import run_hooks
from sevfork.agent.container.adopt import Ended
from sevfork.agent.engine import Generation
from sevfork.agent.workload import Hook
from sevfork.errors import NotAuthentic, RefusedByGuest, TimedOut

GENERATION = Generation(3, bytes(range(16)))


@dataclass
class FakeContainer:
    """Knows how long its commands take and how they end."""

    returncodes: dict[str, int] = field(default_factory=dict)
    takes_s: dict[str, float] = field(default_factory=dict)
    ran: list[tuple[str, ...]] = field(default_factory=list)
    env: Mapping[str, str] | None = None

    def exec(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, *, timeout_s: float
    ) -> Ended:
        self.ran.append(tuple(argv))
        self.env = env
        if self.takes_s.get(argv[0], 0) > timeout_s:
            raise TimedOut("too long")
        return Ended(self.returncodes.get(argv[0], 0))

    def printed(self) -> int:
        return 100 * len(self.ran)

    def last_words(self, since: int = 0) -> str:
        return f"words since {since}"


def test_hooks_run_in_order_and_know_the_generation() -> None:
    container = FakeContainer()
    run_hooks(container, [Hook(command=("/a", "1")), Hook(command=("/b",))], GENERATION)
    assert container.ran == [("/a", "1"), ("/b",)]
    assert container.env == {
        "SEVFORK_GENERATION": "3",
        "SEVFORK_UNIQUE_ID": "000102030405060708090a0b0c0d0e0f",
    }


def test_a_hook_that_fails_ends_it_and_the_next_does_not_run() -> None:
    container = FakeContainer(returncodes={"/a": 3})
    with pytest.raises(RefusedByGuest, match="'/a' exited with 3") as caught:
        run_hooks(container, [Hook(command=("/a",)), Hook(command=("/b",))], GENERATION)
    assert container.ran == [("/a",)]
    assert caught.value.printed == "words since 0"


def test_a_hook_that_takes_too_long_fails() -> None:
    container = FakeContainer(takes_s={"/a": 5.0})
    with pytest.raises(RefusedByGuest, match="did not finish in 2 s") as caught:
        run_hooks(container, [Hook(command=("/a",), timeout_s=2)], GENERATION)
    assert caught.value.printed == "words since 0"


def test_the_generation_file_is_one_page() -> None:
    page = GENERATION.page()
    assert len(page) == 4096
    assert page[:24].hex() == "0300000000000000000102030405060708090a0b0c0d0e0f"
    assert not any(page[24:])


@pytest.mark.parametrize(("counter", "unique_id"), [(-1, bytes(16)), (2**64, bytes(16)), (0, b"")])
def test_a_generation_that_does_not_fit_is_refused(counter: int, unique_id: bytes) -> None:
    with pytest.raises(NotAuthentic):
        Generation(counter, unique_id)
