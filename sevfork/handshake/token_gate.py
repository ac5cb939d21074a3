"""What lets a fork pass: tokens of the owner, and how many children of each are left.

The count is by serial and in the agent's RAM only: a token names the instance key, which dies with
the agent, so restarting the agent does not make a token good again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sevfork.attest.verdict import VerifiedReport
from sevfork.attest.verify import Expected
from sevfork.errors import NotAuthentic, RefusedByGuest
from sevfork.handshake.own_launch import OwnLaunch, Verifier
from sevfork.handshake.token import FOREVER, Allowance, OwnerToken


class TokenGate:
    """Of one instance. What is counted is counted once, whoever asks at the same time."""

    def __init__(self, own: OwnLaunch, instance_key: bytes) -> None:
        self._own, self._instance_key = own, instance_key
        self._lock = threading.Lock()
        self._used: dict[int, int] = {}

    def check(self, encoded: bytes | None, children: int, now: float) -> OwnerToken:
        """The token, good for a fork into that many children; raise RefusedByGuest otherwise.

        ``now`` is the guest's wall clock, in seconds since 1970. Nothing is counted yet.
        """
        token = self._authentic(encoded, children)
        self._require_scope(token)
        self._require_time(token.allowed, now)
        self._require_left(token, children)
        return token

    @contextmanager
    def counted(self, token: OwnerToken | None, children: int) -> Iterator[None]:
        """Count the children of a token that was checked, unless what they are for fails.

        Raises RefusedByGuest where others have used it up since. None: no token was needed.
        """
        if token is None:
            yield
            return
        # A fork uses up a token that is for one.
        count = children if token.allowed.standing else token.allowed.children
        with self._lock:
            self._require_left(token, children)
            self._used[token.serial] = self._used.get(token.serial, 0) + count
        try:
            yield
        except BaseException:
            with self._lock:
                self._used[token.serial] -= count
            raise

    def _authentic(self, encoded: bytes | None, children: int) -> OwnerToken:
        owner = self._own.config.owner
        if owner is None:
            raise RefusedByGuest("the policy asks for an owner's token, and this VM has no owner")
        if encoded is None:
            raise RefusedByGuest(
                "this VM's policy asks for a token of its owner",
                hint="to be run by its owner: "
                f"sevfork owner authorize {{vm}} --children {children} -o TOKEN",
            )
        try:
            token = OwnerToken.decode(encoded)
            token.check(owner)
        except NotAuthentic as exc:
            raise RefusedByGuest(f"the token is not valid: {exc.message}") from exc
        return token

    def _require_scope(self, token: OwnerToken) -> None:
        if token.instance_key != self._instance_key:
            raise RefusedByGuest("the token is for another instance, or this VM was started anew")
        if token.policy_digest != self._own.policy_digest:
            raise RefusedByGuest("the token is for another policy than this VM's")
        chip, chips = self._own.peer_chip_id, token.allowed.chips
        if chip is not None and chips and chip not in chips:
            raise RefusedByGuest(
                "the token is for other chips, and this VM's children run on its own"
            )

    @staticmethod
    def _require_time(allowed: Allowance, now: float) -> None:
        if allowed.not_after != FOREVER and now > allowed.not_after:
            ended = datetime.fromtimestamp(allowed.not_after, UTC)
            raise RefusedByGuest(
                f"the token was good until {ended:%Y-%m-%d %H:%M:%S} UTC, and this VM's clock, "
                "which its host sets, is past that"
            )

    def _require_left(self, token: OwnerToken, children: int) -> None:
        if not 1 <= children <= token.allowed.children:
            raise RefusedByGuest(
                f"the token allows {token.allowed.children} children, not {children}"
            )
        left = token.allowed.children - self._used.get(token.serial, 0)
        if left <= 0:
            raise RefusedByGuest(f"the token with serial {token.serial:016x} is spent")
        if children > left:
            raise RefusedByGuest(
                f"the token has {left} of {token.allowed.children} children left, not {children}"
            )


def on_chips(verifier: Verifier, chips: tuple[bytes, ...]) -> Verifier:
    """The same, for a peer on one of these chips; on any, where there are none.

    A chip that a report does not name is none of them.
    """
    if not chips:
        return verifier

    def verify(evidence: bytes, expected: Expected) -> VerifiedReport:
        report = verifier(evidence, expected)
        if report.chip_id not in chips:
            raise RefusedByGuest("the child runs on a chip that the owner's token does not name")
        return report

    return verify
