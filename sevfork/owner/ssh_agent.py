"""A key that an ssh-agent holds, or a hardware token behind one: it signs, and stays there.

The protocol is draft-ietf-sshm-ssh-agent: a u32 length, then a byte for the kind of message. No
library: a request and its answer are all that is needed of it.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sevfork.deadline import Deadline
from sevfork.errors import HostCannot, NotAuthentic, TimedOut
from sevfork.handshake.owner_signature import check_owner_signature, envelope
from sevfork.wire.lp import lp

_ANSWER_LIMIT_BYTES = 4096
# A token may wait to be touched, an agent to be allowed.
_TIMEOUT_S = 60.0
_SIGN_REQUEST, _SIGN_RESPONSE = 13, 14
_NO_FLAGS = bytes(4)
_ED25519 = b"ssh-ed25519"


@dataclass(frozen=True)
class AgentKey:
    """The agent is asked when something is to be signed, not before."""

    public: bytes
    socket: Path
    timeout_s: float = _TIMEOUT_S

    @classmethod
    def of(cls, public: bytes, environ: Mapping[str, str]) -> AgentKey:
        """That of the agent which SSH_AUTH_SOCK names. Raises HostCannot where there is none."""
        if not environ.get("SSH_AUTH_SOCK"):
            raise HostCannot(
                "that is a public key, and there is no ssh-agent to have the private one",
                hint="start one and 'ssh-add' the key, or give the private key's file",
            )
        return cls(public, Path(environ["SSH_AUTH_SOCK"]))

    def sign(self, namespace: str, message: bytes) -> bytes:
        """Raises HostCannot (no agent, not this key, not allowed), TimedOut, NotAuthentic."""
        blob = lp(_ED25519, self.public)
        request = lp(blob, envelope(namespace, message)) + _NO_FLAGS
        answer = ask(self.socket, bytes([_SIGN_REQUEST]) + request, Deadline.after(self.timeout_s))
        if answer[:1] != bytes([_SIGN_RESPONSE]):
            raise HostCannot(
                "the ssh-agent does not sign: it has another key, or was not allowed to",
                hint="'ssh-add -L' lists what it has",
            )
        signature = _signature(answer[1:])
        check_owner_signature(self.public, namespace, message, signature)
        return signature


def ask(path: Path, message: bytes, deadline: Deadline) -> bytes:
    """The answer of the agent at this socket. Raises HostCannot, TimedOut."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(deadline.left_s)
            connection.connect(str(path))
            connection.sendall(lp(message))
            size = int.from_bytes(_receive(connection, 4, deadline), "big")
            if size > _ANSWER_LIMIT_BYTES:
                raise HostCannot(f"the ssh-agent's answer has {size} bytes")
            return _receive(connection, size, deadline)
    except TimeoutError as exc:
        raise TimedOut("the ssh-agent does not answer") from exc
    except OSError as exc:
        reason = exc.strerror or str(exc)  # of a path that is too long Python has no number
        raise HostCannot(f"no ssh-agent answers at '{path}': {reason}") from exc


def _receive(connection: socket.socket, size: int, deadline: Deadline) -> bytes:
    received = b""
    while len(received) < size:
        deadline.check("the ssh-agent does not answer")
        connection.settimeout(deadline.left_s)
        part = connection.recv(size - len(received))
        if not part:
            raise HostCannot("the ssh-agent has closed the connection")
        received += part
    return received


def _signature(answer: bytes) -> bytes:
    """The 64 bytes in LP(LP("ssh-ed25519") || LP(signature)); raise NotAuthentic otherwise."""
    head = lp(_ED25519)
    whole = lp(head + lp(bytes(64)))
    if answer[:-64] != whole[:-64]:
        raise NotAuthentic("the ssh-agent's signature is none of an Ed25519 key")
    return answer[-64:]
