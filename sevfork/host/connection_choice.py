"""Which libvirt to talk to.

In this order: what was asked for (``-c``, SEVFORK_CONNECT, LIBVIRT_DEFAULT_URI); for users,
libvirt's own session daemon, which libvirt starts by itself; for root, a private libvirtd that
sevfork started earlier, the system's libvirtd if one answers, else a new private one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sevfork.host import private_libvirtd
from sevfork.host.hypervisor import Hypervisor
from sevfork.host.private_libvirtd import Layout, answers

SYSTEM_URI = "qemu:///system"
SESSION_URI = "qemu:///session"


@dataclass(frozen=True)
class Endpoint:
    """A connection URI, where its storage pool would go, and why it is this one."""

    uri: str
    pool: Path | None
    reason: str
    private: bool = False


def connect(asked: str | None, note: Callable[[str], None]) -> Hypervisor:
    """The hypervisor to use; ``note`` hears of anything that takes long.

    Raises HypervisorUnreachable, and HostCannot where no libvirtd can be started.
    """
    # Only here: all else in this module is of use, and is tested, where libvirt-python is absent.
    from sevfork.host.libvirt.hypervisor import connect as connect_to

    environ, layout = os.environ, Layout.of(os.environ)
    endpoint = choose(asked, environ, layout, root=os.geteuid() == 0, answers=answers)
    pool_path = str(endpoint.pool) if endpoint.pool else None
    if endpoint.private:
        return private_libvirtd.connect(
            layout, note, lambda: connect_to(endpoint.uri, pool_path=pool_path)
        )
    return connect_to(endpoint.uri, pool_path=pool_path)


def choose(
    asked: str | None,
    environ: Mapping[str, str],
    layout: Layout,
    *,
    root: bool,
    answers: Callable[[Path], bool],
) -> Endpoint:
    """Decide, without starting anything; ``answers`` says whether a socket does."""
    for uri, reason in (
        (asked, "--connect"),
        (environ.get("SEVFORK_CONNECT"), "SEVFORK_CONNECT"),
        (environ.get("LIBVIRT_DEFAULT_URI"), "LIBVIRT_DEFAULT_URI"),
    ):
        if uri:
            return Endpoint(uri, _pool_for(uri, environ), reason)
    if not root:
        return Endpoint(SESSION_URI, _pool_for(SESSION_URI, environ), "libvirt's session daemon")
    if answers(layout.socket):
        return Endpoint(layout.uri, layout.pool, "sevfork's private libvirtd", private=True)
    if any(answers(Path(f"/run/libvirt/{name}-sock")) for name in ("libvirt", "virtqemud")):
        return Endpoint(SYSTEM_URI, None, "the system's libvirtd")
    return Endpoint(layout.uri, layout.pool, "a private libvirtd, started now", private=True)


def _pool_for(uri: str, environ: Mapping[str, str]) -> Path | None:
    """The session daemon of this machine keeps volumes in the user's own data directory."""
    if uri.partition("?")[0] != SESSION_URI:
        return None
    data = environ.get("XDG_DATA_HOME") or Path(environ.get("HOME", "/")) / ".local/share"
    return Path(data) / "sevfork" / "volumes"
