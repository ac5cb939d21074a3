"""The OCI bundle's ``config.json``: what the workload's container is, and what it cannot do.

Lean on purpose, because each mount and namespace costs time while the workload is frozen
(measured): no network namespace (the guest has one workload, and its link is what is cut), no UTS
namespace (a child's host name is its own guest's), no cgroup namespace (CRIU cannot restore one),
no file systems but ``/proc``, and no ``/sys``: there lies configfs, where evidence is made.
"""

from __future__ import annotations

from sevfork.agent.container import seccomp
from sevfork.agent.container.users import User
from sevfork.agent.workload import Workload

# What remains for a program that starts as root. Left out of what is usual for containers:
# MKNOD and SYS_ADMIN (devices: evidence, the control channel, sealed volumes), NET_RAW and
# NET_ADMIN (the link), SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_TIME, SYSLOG, AUDIT_WRITE.
CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
# CRIU restores CLOCK_MONOTONIC only for what is in a time namespace.
NAMESPACES = ("pid", "ipc", "mount", "time")
# The agent, whose value a process would inherit, is never killed. Not 0: CRIU restores others only.
OOM_SCORE_ADJ = 100
OPEN_FILES = 65536
_PTS_OPTIONS = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def config(workload: Workload, user: User, root: str, cgroup: str) -> dict[str, object]:
    """The whole of ``config.json``. ``cgroup`` is a path in the unified hierarchy."""
    return {
        "ociVersion": "1.0.2",
        "process": _process(workload, user),
        "root": {"path": root},
        # Read-only: to a container's root, /proc/sys and the like are files that root may write,
        # such as kernel.core_pattern, which would run a program in the guest itself.
        "mounts": [
            {
                "destination": "/proc",
                "type": "proc",
                "source": "proc",
                "options": ["nosuid", "noexec", "nodev", "ro"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": [*_PTS_OPTIONS],
            },
        ],
        "linux": {
            "namespaces": [{"type": namespace} for namespace in NAMESPACES],
            "cgroupsPath": cgroup,
            # runc adds null, zero, full, random, urandom, tty and pseudo-terminals to this.
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "seccomp": seccomp.profile(io_uring=workload.io_uring),
        },
    }


def _process(workload: Workload, user: User) -> dict[str, object]:
    environment = {"PATH": _PATH, "HOME": user.home, **workload.environment}
    return {
        "terminal": False,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "args": list(workload.command),
        "env": [f"{name}={value}" for name, value in environment.items()],
        "cwd": workload.working_directory,
        "capabilities": {
            kind: list(CAPABILITIES) for kind in ("bounding", "effective", "permitted")
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": OPEN_FILES, "hard": OPEN_FILES}],
        "noNewPrivileges": True,
        "oomScoreAdj": OOM_SCORE_ADJ,
    }
