"""What the workload's container is given, and what it is not."""

from __future__ import annotations

import json

import pytest

from sevfork.agent.container.bundle import config
from sevfork.agent.container.seccomp import profile
from sevfork.agent.container.users import User
from sevfork.agent.workload import Ready, Workload

WORKLOAD = Workload(
    name="app",
    command=("/usr/bin/app", "--flag"),
    environment={"MODE": "test", "PATH": "/opt/bin"},
    working_directory="/srv",
    ready=Ready(tcp=80),
)


def made() -> dict[str, object]:
    user = User(1000, 1001, (4, 5), "/home/app")
    text = json.dumps(config(WORKLOAD, user, "/run/root", "/sevfork/workload"))
    loaded = json.loads(text)
    assert isinstance(loaded, dict)
    return loaded


def capabilities() -> set[str]:
    process = made()["process"]
    assert isinstance(process, dict)
    return {name for names in process["capabilities"].values() for name in names}


@pytest.mark.parametrize(
    "name",
    [
        "CAP_SYS_ADMIN",
        "CAP_MKNOD",
        "CAP_NET_ADMIN",
        "CAP_NET_RAW",
        "CAP_SYS_MODULE",
        "CAP_SYS_RAWIO",
        "CAP_SYS_PTRACE",
        "CAP_SYS_TIME",
        "CAP_SYS_BOOT",
        "CAP_DAC_READ_SEARCH",
        "CAP_BPF",
        "CAP_PERFMON",
        "CAP_CHECKPOINT_RESTORE",
    ],
)
def test_a_workload_has_no_power_over_the_guest(name: str) -> None:
    assert name not in capabilities()


def test_proc_cannot_be_written_and_terminals_are_the_only_other_mount() -> None:
    mounts = made()["mounts"]
    assert isinstance(mounts, list)
    assert [mount["destination"] for mount in mounts] == ["/proc", "/dev/pts"]
    assert {"ro", "nosuid", "noexec", "nodev"} <= set(mounts[0]["options"])
    assert {"newinstance", "nosuid", "noexec"} <= set(mounts[1]["options"])


def test_the_system_calls_are_filtered() -> None:
    linux = made()["linux"]
    assert isinstance(linux, dict)
    assert linux["seccomp"] == profile(io_uring=False)


def test_no_device_is_allowed_beyond_runcs_own() -> None:
    linux = made()["linux"]
    assert isinstance(linux, dict)
    assert linux["resources"]["devices"] == [{"allow": False, "access": "rwm"}]
    assert "devices" not in linux


def test_the_clock_can_be_carried_on_in_a_child() -> None:
    linux = made()["linux"]
    assert isinstance(linux, dict)
    assert {"type": "time"} in linux["namespaces"]
    assert {"type": "network"} not in linux["namespaces"]


def test_the_process_is_what_the_workload_file_says() -> None:
    process = made()["process"]
    assert isinstance(process, dict)
    assert process["oomScoreAdj"] > 0, "CRIU restores no 0, and the agent's own is -1000"
    assert process["args"] == ["/usr/bin/app", "--flag"]
    assert process["cwd"] == "/srv"
    assert process["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [4, 5]}
    assert set(process["env"]) == {"PATH=/opt/bin", "HOME=/home/app", "MODE=test"}
    assert process["noNewPrivileges"] is True
    assert process["terminal"] is False
