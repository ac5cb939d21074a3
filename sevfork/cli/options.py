"""Options that every verb has, and the types of option values."""

from __future__ import annotations

import functools
import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sevfork.cli.output import Output, indented

if TYPE_CHECKING:
    from sevfork.host.hypervisor import Hypervisor
    from sevfork.lifecycle.gathered import Gather
    from sevfork.lifecycle.ports import PortWish

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass
class App:
    """What was given before or after the verb, and what a verb works with."""

    connect: str | None = None
    quiet: bool = False
    debug: bool = False
    output: Output = field(default_factory=Output)
    _opened: list[Hypervisor] = field(default_factory=list)

    def merge(self, connect: str | None, quiet: bool, debug: bool) -> None:
        self.connect = connect or self.connect
        self.quiet = self.output.quiet = self.quiet or quiet
        if debug and not self.debug:
            self.debug = True
            log_everything()

    def hypervisor(self, *, change_nothing: bool = False) -> Hypervisor:
        """Connect, after which nothing of killed commands is left; closed when the verb ends."""
        from sevfork.host import connection_choice
        from sevfork.lifecycle.reap import reap

        hypervisor = connection_choice.connect(self.connect, self.output.note)
        self._opened.append(hypervisor)
        if not change_nothing:
            reap(hypervisor, self.output.note)
        return hypervisor

    def gather(self) -> Gather:
        """Gets, by the way, what a guest's evidence is checked by."""
        from sevfork.verifier import http
        from sevfork.verifier.sources import BRIEF_S, Sources

        return Sources.of(os.environ, fetcher=http.http_fetcher, deadline_s=BRIEF_S).gather

    def close(self) -> None:
        while self._opened:
            self._opened.pop().close()


def log_everything() -> None:
    """--debug: every step and every command, on stderr."""
    import logging

    class Cleaned(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return indented(super().format(record))

    shown = logging.StreamHandler()
    shown.setFormatter(Cleaned("%(relativeCreated)7d ms %(name)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG, handlers=[shown], force=True)


def common(command: _Command) -> _Command:
    """Give a verb -c, -q and --debug, as the group has them, and pass it the App first."""

    @click.option("-c", "--connect", metavar="URI", help="The libvirt to talk to.")
    @click.option("-q", "--quiet", is_flag=True, help="Say nothing but data and errors.")
    @click.option("--debug", is_flag=True, help="Log every step on stderr.")
    @click.pass_obj
    @functools.wraps(command)
    def call(app: App, /, connect: str | None, quiet: bool, debug: bool, **rest: Any) -> Any:
        app.merge(connect, quiet, debug)
        try:
            return command(app, **rest)
        finally:
            app.close()

    return call  # type: ignore[return-value]  # click replaces the signature


def recorded(vms: str) -> Callable[[_Command], _Command]:
    """Give a verb that changes something, under ``common``, its line in the host's log.

    ``vms`` is the argument that names its VMs.
    """

    def decorate(command: _Command) -> _Command:
        @functools.wraps(command)
        def call(app: App, /, **options: Any) -> Any:
            from sevfork.host.command_record import recorded

            if options.get("dry_run") or options.get("print_xml"):
                return command(app, **options)
            named = options[vms]
            with recorded(command.__name__, [named] if isinstance(named, str) else named):
                return command(app, **options)

        return call  # type: ignore[return-value]  # as it was

    return decorate


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/json.md).")


_DURATION_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_MEMORY_UNITS = {"": 1, "M": 1, "MiB": 1, "G": 1024, "GiB": 1024}


def duration(text: str) -> float:
    """``90s``, ``2m``, ``1h`` or plain seconds -> seconds."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", text)
    if not found or float(found[1]) == 0:
        raise click.BadParameter(f"'{text}' is not a duration such as 90s or 2m")
    return float(found[1]) * _DURATION_UNITS[found[2]]


lost_after = click.option(
    "--lost-after",
    metavar="DURATION",
    type=duration,
    default="60s",
    show_default=True,
    help="A VM whose agent says nothing for so long counts as lost.",
)


def memory_size(text: str) -> int:
    """``512`` (MiB), ``512M`` or ``2G`` -> MiB."""
    found = re.fullmatch(r"([0-9]+)(M|MiB|G|GiB)?", text)
    if not found or int(found[1]) == 0:
        raise click.BadParameter(f"'{text}' is not a memory size such as 512M or 2G")
    return int(found[1]) * _MEMORY_UNITS[found[2] or ""]


def owner_key(text: str) -> bytes:
    """A file with an owner's public key, or its text -> the SHA-384 of the key, 48 bytes."""
    from sevfork.handshake import owner_digest
    from sevfork.owner.public_key import read_public_key

    return owner_digest(read_public_key(text))


def token_file(path: str) -> bytes:
    """What is in the file of an owner's token; the guest says what it is worth."""
    from sevfork.handshake.token import MAX_SIZE

    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_SIZE + 1)
    except OSError as exc:
        raise click.BadParameter(f"'{path}' cannot be read: {exc.strerror}") from exc
    if len(content) > MAX_SIZE:
        raise click.BadParameter(f"'{path}' is too large to be a token")
    return content


owners_token = click.option(
    "--token",
    metavar="FILE",
    type=token_file,
    help="The owner's token, where the image's policy asks for one.",
)


_PORT_SHAPE = "[[ADDRESS:]HOST:]GUEST[/udp], such as 8080:80 or 0.0.0.0:53:53/udp"
_PORT = re.compile(
    r"(?:(?P<address>[0-9.]{7,15}):(?P<there>[0-9]{1,5})?:|(?P<host>[0-9]{1,5}):)?"
    r"(?P<guest>[0-9]{1,5})(?:/(?P<transport>tcp|udp))?"
)


def published_port(text: str) -> PortWish:
    """``GUEST``, ``HOST:GUEST``, ``ADDRESS:HOST:GUEST`` or ``ADDRESS::GUEST``, and ``/udp``.

    Without HOST it is a port of sevfork's choice.
    """
    from sevfork.domain.metadata import LOOPBACK, Transport
    from sevfork.lifecycle.ports import PortWish

    found = _PORT.fullmatch(text)
    if not found:
        raise click.BadParameter(f"'{text}' is not {_PORT_SHAPE}")
    host, guest = found["there"] or found["host"], found["guest"]
    if not all(1 <= int(port) <= 65535 for port in (host, guest) if port):
        raise click.BadParameter(f"'{text}' has a port that is not from 1 to 65535")
    try:
        address = str(ipaddress.IPv4Address(found["address"] or LOOPBACK))
    except ValueError as exc:
        raise click.BadParameter(f"'{found['address']}' is no IPv4 address") from exc
    transport = Transport(found["transport"] or "tcp")
    return PortWish(int(host) if host else None, int(guest), address, transport)
