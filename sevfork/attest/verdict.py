"""What came out of looking at evidence: every check that was made, and what was not checked.

Each technology has a module with one function ``examine(evidence, policy, at, findings) ->
Claims``. It notes every check in ``findings`` and goes on after a failed one, so that a verdict
shows everything; it raises AttestationFailed only where nothing more can be read (a report that
does not parse). What it returns is claims, not yet facts: only ``verify()`` turns them into a
VerifiedReport.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NoReturn, TypeVar, final

from msgspec import Struct
from msgspec.structs import asdict

from sevfork.attest.x509 import Validity, time_text
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology

_T = TypeVar("_T")


class Check(Struct, frozen=True):
    """One check: what was wanted, what was found, and whether that is good enough."""

    name: str
    wanted: str
    got: str
    passed: bool


class Verdict(Struct, frozen=True):
    """The whole outcome; ``facts`` are what the evidence says, for a reader, judged or not.

    ``warnings`` are those of ``not_checked`` that must not be overlooked.
    """

    technology: Technology
    checks: tuple[Check, ...]
    not_checked: tuple[str, ...]
    facts: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True only if something was checked and nothing failed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)


def printable(text: str) -> str:
    """Text of evidence without what drives a terminal or ends a line, and so could fake one."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


class Findings(Struct):
    """Collects checks while evidence is examined.

    It is the one place that text of evidence goes through on its way to a reader, be it printed,
    written as JSON or part of an error: none of it leaves here with a character that is not shown.
    """

    checks: list[Check] = []
    not_checked: list[str] = []
    facts: list[tuple[str, str]] = []
    warnings: list[str] = []

    def check(self, name: str, wanted: str, got: str, passed: bool) -> bool:
        """Note one check; the result is handed back so that later checks can depend on it."""
        self.checks.append(Check(printable(name), printable(wanted), printable(got), passed))
        return passed

    def equal(self, name: str, wanted: bytes, got: bytes) -> bool:
        """Bytes that must be the same; shown in hexadecimal."""
        return self.check(name, wanted.hex(), got.hex() or "nothing", wanted == got)

    def at_least(self, name: str, least: int, value: int) -> bool:
        return self.check(name, f"at least {least}", str(value), value >= least)

    def valid(self, name: str, validity: Validity, at: datetime) -> bool:
        """A span of time that must have the time of the examination in it."""
        return self.check(name, f"valid at {time_text(at)}", str(validity), validity.covers(at))

    def obtain(
        self, name: str, wanted: str, action: Callable[[], _T], show: Callable[[_T], str]
    ) -> _T | None:
        """Note whether an action succeeds; its result, or None after an AttestationFailed."""
        try:
            result = action()
        except AttestationFailed as exc:
            self.check(name, wanted, exc.message, passed=False)
            return None
        self.check(name, wanted, show(result), passed=True)
        return result

    def holds(self, name: str, wanted: str, action: Callable[[], None]) -> bool:
        """The same for an action that returns nothing."""

        def done() -> bool:
            action()
            return True

        return self.obtain(name, wanted, done, lambda _: wanted) or False

    def accepted(self, name: str, rule: Iterable[str], got: str) -> bool:
        """A value that the policy must list, or say ``any`` to; ``any`` is noted as not checked."""
        if rule == "any":
            self.unchecked(f"{name}: the policy accepts any (it is '{got}')")
            return True
        listed = tuple(rule)
        wanted = "one of: " + ", ".join(listed) if listed else "nothing: the policy's list is empty"
        return self.check(name, wanted, got, got in listed)

    def unchecked(self, what: str) -> None:
        self.not_checked.append(printable(what))

    def warn(self, what: str) -> None:
        """Something that was not checked and that many take for granted."""
        self.unchecked(what)
        self.warnings.append(printable(what))

    def fact(self, name: str, value: str) -> None:
        self.facts.append((printable(name), printable(value)))

    def verdict(self, technology: Technology) -> Verdict:
        return Verdict(
            technology,
            tuple(self.checks),
            tuple(self.not_checked),
            tuple(self.facts),
            tuple(self.warnings),
        )


class LaunchIdentity(Struct, frozen=True):
    """What "the same launch" compares: named measured values, equal only if all of them are.

    SNP: measurement, policy, id and author key digests. TDX: MRTD, RTMR0-2, attributes, XFAM,
    MRSEAM, MRSIGNERSEAM, MROWNER, MROWNERCONFIG.
    """

    technology: Technology
    parts: tuple[tuple[str, bytes], ...]

    def differs_in(self, other: LaunchIdentity) -> tuple[str, ...]:
        """The names of the parts that are not the same, for a message."""
        if self.technology is not other.technology:
            return ("technology",)
        mine, theirs = dict(self.parts), dict(other.parts)
        return tuple(name for name in mine | theirs if mine.get(name) != theirs.get(name))


class Claims(Struct, frozen=True):
    """What a report says, before anybody has decided to believe it.

    ``report_data`` has 64 bytes; ``launch_config_hash`` is HOST_DATA (32) or MRCONFIGID (48);
    ``report_id`` and ``chip_id`` are None where the technology or the report has none.
    """

    technology: Technology
    report_data: bytes
    launch_config_hash: bytes
    launch_identity: LaunchIdentity
    report_id: bytes | None
    chip_id: bytes | None


class EvidenceRejected(AttestationFailed):
    """Evidence that did not pass; ``verdict`` says why. For the log, not for the peer."""

    def __init__(self, verdict: Verdict, *, hint: str | None = None) -> None:
        first = verdict.failures[0] if verdict.failures else None
        reason = f"{first.name}: wanted {first.wanted}, got {first.got}" if first else "no checks"
        more = f" (and {len(verdict.failures) - 1} more)" if len(verdict.failures) > 1 else ""
        super().__init__(f"the evidence was rejected: {reason}{more}", hint=hint)
        self.verdict = verdict


@final
class VerifiedReport:
    """Claims that passed every check. Only ``sevfork.attest.verify.verify`` makes one.

    Code that releases a key takes this type and no other, so that a forgotten check does not
    type-check.
    """

    technology: Technology
    report_data: bytes
    launch_config_hash: bytes
    launch_identity: LaunchIdentity
    report_id: bytes | None
    chip_id: bytes | None
    verdict: Verdict

    def __init__(self) -> None:
        raise TypeError("only verify() makes a VerifiedReport")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a VerifiedReport is not changed")


def _verified(claims: Claims | None, verdict: Verdict) -> VerifiedReport:
    """For ``verify()`` alone. Raise EvidenceRejected unless there are claims and all passed."""
    if claims is None or not verdict.passed or claims.technology is not verdict.technology:
        raise EvidenceRejected(verdict)
    report = object.__new__(VerifiedReport)
    for name, value in (*asdict(claims).items(), ("verdict", verdict)):
        object.__setattr__(report, name, value)
    return report
