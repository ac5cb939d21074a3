"""A private libvirtd, for root where no libvirt answers.

``docs/private-libvirtd.md`` says why it is a daemon, and how it keeps out of the way of one that an
admin installs later.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import socket
import time
import uuid as uuids
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sevfork import process
from sevfork.deadline import Deadline
from sevfork.errors import HostCannot, HypervisorUnreachable, SevforkError, TimedOut, UsageError
from sevfork.host import maker
from sevfork.host.own_path import require_own

# Measured: it answers after 0.1 s. Drivers are then still coming up; the first connection waits.
_START_TIMEOUT_S = 30
_STOP_TIMEOUT_S = 20
_POLL_S = 0.05
_DYING_S = 5.0
# sun_path holds 107 characters; the longest below our directory is a guest's channel:
# lib/qemu/channel/target/domain-NN-<20 characters>/org.sevfork.agent.0
_LONGEST_STATE_DIR = 40

_QEMU_CONF = """\
# Written by sevfork for its private libvirtd; changed whenever it starts.
stdio_handler = "logd"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = [ ]
max_core = 0
"""
# max_core: sudo of Debian 13 starts everything with a hard limit of 0, which libvirt's default
# would have to raise, and may not; and what a guest held has no business in a core file.

_LIBVIRTD_CONF = """\
# Written by sevfork for its private libvirtd; changed whenever it starts.
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_ro_perms = "0700"
unix_sock_rw_perms = "0700"
host_uuid = "{uuid}"
log_outputs = "3:file:{log}"
"""

# A guest writes as much to its serial port as it likes. What is longer than this begins anew.
LOG_LIMIT_BYTES = 1024 * 1024
_VIRTLOGD_CONF = f"""\
# Written by sevfork for its private virtlogd; changed whenever it starts.
log_outputs = "3:file:/var/log/libvirt/virtlogd.log"
max_size = {LOG_LIMIT_BYTES}
max_backups = 0
"""

# libvirtd has its directories compiled in. In a mount namespace of its own they are ours, so that
# a libvirtd of the system, now or later, shares no socket, lock, or list of VMs with this one.
_IN_NAMESPACE = """\
set -eu
while [ "$1" != -- ]; do mount --bind "$1" "$2"; shift 2; done
shift
exec "$@"
"""


_Connection = TypeVar("_Connection")


@dataclass(frozen=True)
class Daemon:
    """A program that listens at a socket once it has started."""

    program: str
    socket: Path
    pid_file: Path

    @property
    def answers(self) -> bool:
        return answers(self.socket)


@dataclass(frozen=True)
class Layout:
    """The private libvirtd's directories: VMs and volumes in ``state``, sockets in ``run``."""

    state: Path
    run: Path

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Layout:
        """``SEVFORK_STATE_DIR``, else /var/lib/sevfork and /run/sevfork."""
        chosen = environ.get("SEVFORK_STATE_DIR")
        if not chosen:
            return cls(Path("/var/lib/sevfork"), Path("/run/sevfork"))
        state = Path(chosen).absolute()
        if len(str(state)) > _LONGEST_STATE_DIR:
            raise UsageError(
                f"SEVFORK_STATE_DIR '{state}' is too long for the sockets in it",
                hint=f"choose a directory of at most {_LONGEST_STATE_DIR} characters",
            )
        return cls(state, state / "run")

    @property
    def socket(self) -> Path:
        return self.run / "libvirt" / "libvirt-sock"

    @property
    def libvirtd(self) -> Daemon:
        return Daemon("libvirtd", self.socket, self.run / "libvirtd.pid")

    @property
    def virtlogd(self) -> Daemon:
        """Writes the guests' serial logs, and bounds them; libvirtd wants it at every start."""
        socket = self.run / "libvirt" / "virtlogd-sock"
        return Daemon("virtlogd", socket, self.run / "virtlogd.pid")

    @property
    def runs_guests(self) -> bool:
        """Whether libvirtd, when it was last seen, left a guest running."""
        return any((self.run / "libvirt" / "qemu").glob("*.xml"))

    def log(self, daemon: Daemon) -> Path:
        return self.state / "log" / f"{daemon.program}.log"

    @property
    def pool(self) -> Path:
        return self.state / "volumes"

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.socket}"

    @property
    def mounts(self) -> dict[Path, str]:
        """Our directory or file -> libvirtd's compiled-in path."""
        return {
            self.state / "etc": "/etc/libvirt",
            self.state / "lib": "/var/lib/libvirt",
            self.state / "cache": "/var/cache/libvirt",
            self.state / "log": "/var/log/libvirt",
            self.run / "libvirt": "/run/libvirt",
            # Locks of agents' channels, named after VMs, with the process that holds each.
            self.run / "lock": "/var/lock",
        }


def answers(path: Path) -> bool:
    """Whether something accepts connections at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def ensure_running(layout: Layout, note: Callable[[str], None]) -> None:
    """Start the private libvirtd unless it answers; of several commands at once, one starts it.

    Raises InsecureRefused where others may write to its directories, and HostCannot.
    """
    _require_own(layout)
    if layout.virtlogd.answers and layout.libvirtd.answers:
        return
    _require_programs()
    _make_directories(layout)
    _require_own(layout)  # what was not there yet, somebody else may have made meanwhile
    with _locked(layout):
        if not layout.libvirtd.answers:
            note(
                "no libvirtd answers: starting a private one (the first time takes up to a minute)"
            )
        _start(layout)


def connect(
    layout: Layout, note: Callable[[str], None], open_it: Callable[[], _Connection]
) -> _Connection:
    """What ``open_it`` gives, once the private libvirtd runs.

    One that is being killed still accepts connections, and then hangs up: that is tried again.
    """
    deadline = Deadline.after(_DYING_S)
    while True:
        ensure_running(layout, note)
        try:
            return open_it()
        except HypervisorUnreachable:
            if deadline.passed:
                raise
            time.sleep(_POLL_S)


def stop(layout: Layout) -> bool:
    """End the private libvirtd; guests go on running and are found again. False if none ran."""
    if not layout.libvirtd.answers:
        return False
    _require_own(layout)
    with _locked(layout):
        _end(layout.libvirtd)
        # What a guest writes goes through virtlogd for as long as the guest runs.
        if layout.virtlogd.answers and not layout.runs_guests:
            _end(layout.virtlogd)
    return True


def _end(daemon: Daemon) -> None:
    pid = int(daemon.pid_file.read_text())
    os.kill(pid, signal.SIGTERM)
    stays = f"{daemon.program} ({pid}) did not end in {_STOP_TIMEOUT_S} s"
    for _ in Deadline.after(_STOP_TIMEOUT_S).poll(_POLL_S, stays):
        if maker.start_time(pid) is None:
            return


def _require_own(layout: Layout) -> None:
    for directory in (*layout.mounts, layout.run, layout.pool):
        require_own(directory)


def _require_programs() -> None:
    for program, package in (
        ("libvirtd", "libvirt-daemon libvirt-daemon-driver-qemu"),
        ("virtlogd", "libvirt-daemon"),
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("unshare", "util-linux"),
        ("mount", "mount"),
    ):
        if shutil.which(program, path=_path()) is None:
            raise HostCannot(f"'{program}' is not installed", hint=f"apt install {package}")


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin"


def _make_directories(layout: Layout) -> None:
    try:
        for ours, theirs in layout.mounts.items():
            ours.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Mount points: empty directories where the system has no libvirtd; /var/lock is a link.
            Path(theirs).resolve().mkdir(mode=0o755, parents=True, exist_ok=True)
        layout.pool.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise HostCannot(f"cannot make '{exc.filename}': {exc.strerror}") from exc


@contextlib.contextmanager
def _locked(layout: Layout) -> Iterator[None]:
    with (layout.run / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _start(layout: Layout) -> None:
    """Start what does not answer; virtlogd first, which libvirtd asks for."""
    mounts = {**_write_configuration(layout), **layout.mounts}
    for daemon in (layout.virtlogd, layout.libvirtd):
        if not daemon.answers:
            _start_daemon(layout, daemon, mounts)


def _start_daemon(layout: Layout, daemon: Daemon, mounts: Mapping[Path, str]) -> None:
    pairs = [word for ours, theirs in mounts.items() for word in (str(ours), theirs)]
    command = [daemon.program, "--daemon", "--pid-file", str(daemon.pid_file)]
    namespace = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", _IN_NAMESPACE, "sh"]
    try:
        process.run(
            [*namespace, *pairs, "--", *command],
            timeout_s=_START_TIMEOUT_S,
            env={"PATH": _path()},
        )
        for _ in Deadline.after(_START_TIMEOUT_S).poll(_POLL_S, "it does not answer"):
            if daemon.answers:
                return
    except process.CommandFailed as exc:
        raise _cannot_start(layout, daemon, exc.output) from exc
    except TimedOut as exc:
        raise _cannot_start(layout, daemon, exc.message) from exc


def _write_configuration(layout: Layout) -> dict[Path, str]:
    """Write libvirtd's files; returns what has to be mounted beyond the directories."""
    etc = layout.state / "etc"
    cgroups = "" if _cgroups_usable() else "cgroup_controllers = [ ]\n"
    (etc / "qemu.conf").write_text(_QEMU_CONF + cgroups)
    (etc / "virtlogd.conf").write_text(_VIRTLOGD_CONF)
    # Its own: a host's usual sources (SMBIOS, machine-id) are missing in a container.
    settings = _LIBVIRTD_CONF.format(log="/var/log/libvirt/libvirtd.log", uuid=uuids.uuid4())
    (etc / "libvirtd.conf").write_text(settings)
    return _user_files(layout)


def _cgroups_usable() -> bool:
    """Whether libvirt can make control groups: the unified hierarchy, and writable."""
    root = Path("/sys/fs/cgroup")
    return (root / "cgroup.controllers").exists() and os.access(root, os.W_OK)


def _user_files(layout: Layout) -> dict[Path, str]:
    """A private passwd and group where the user that Debian's libvirt was compiled for is missing.

    libvirtd looks that user up before it reads in qemu.conf that it is not to be used. The package
    libvirt-daemon-system would make it, and start a libvirtd for the system with it.
    """
    with contextlib.suppress(KeyError):
        pwd.getpwnam("libvirt-qemu")
        return {}
    line = "libvirt-qemu:x:64055:64055:sevfork private libvirtd:/nonexistent:/usr/sbin/nologin\n"
    made = {}
    for name, extra in (("passwd", line), ("group", "libvirt-qemu:x:64055:\n")):
        ours = layout.state / name
        ours.write_text(Path(f"/etc/{name}").read_text().rstrip("\n") + "\n" + extra)
        made[ours] = f"/etc/{name}"
    return made


def _cannot_start(layout: Layout, daemon: Daemon, output: str) -> SevforkError:
    last = (output.strip().splitlines() or ["it said nothing"])[-1]
    if "ermission denied" in output or "not permitted" in output:
        return HostCannot(
            f"cannot start a private {daemon.program}: {last}",
            hint="it needs CAP_SYS_ADMIN for a mount namespace: a container must be privileged; "
            "or name a libvirt with --connect",
        )
    return HostCannot(
        f"cannot start a private {daemon.program}: {last}", hint=f"see '{layout.log(daemon)}'"
    )
