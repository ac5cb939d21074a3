"""A runner that runs nothing: it answers by the verb, and remembers what was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from scripts.hardware.running import Ran

Answer = Ran | Callable[[Sequence[str]], Ran]


class FakeRunner:
    """``answers`` by verb; everything else ends well and prints nothing."""

    def __init__(self, answers: Mapping[str, Answer] | None = None) -> None:
        self.answers: dict[str, Answer] = {"ls": Ran(0, '{"vms": []}', ""), **(answers or {})}
        self.ran: list[list[str]] = []

    def run(self, words: Sequence[str], timeout_s: float) -> Ran:
        assert timeout_s > 0
        self.ran.append(list(words))
        answer = self.answers.get(words[0], Ran(0, "", ""))
        return answer(words) if callable(answer) else answer

    @contextmanager
    def keep(self, words: Sequence[str], until: str, timeout_s: float) -> Iterator[Ran]:
        try:
            yield self.run(words, timeout_s)
        finally:
            self.ran.append(["ended", *words])
