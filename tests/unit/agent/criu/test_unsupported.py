"""What CRIU would lose silently is found in /proc, and refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from sevfork.agent.criu import unsupported
from sevfork.agent.criu.refusal import Refusal
from sevfork.errors import RefusedByGuest

IGMP = """\
Idx	Device    : Count Querier	Group    Users Timer	Reporter
1	lo        :     1      V3
				010000E0     1 0:00000000		0
"""
UNIX = """\
Num       RefCount Protocol Flags    Type St Inode Path
0000000073769490: 00000002 00000000 00010000 0001 01 356685 /run/socket
0000000073769491: 00000002 00000000 00010000 0001 01 356686 /var/run/socket
0000000073769492: 00000002 00000000 00010000 0001 01 356687 @abstract
0000000073769493: 00000003 00000000 00000000 0001 03  35668 /run/connected-to-one-that-is-gone
0000000073769494: 00000002 00000000 00010000 0001 01 356689 relative
0000000073769495: 00000003 00000000 00000000 0001 03  35669
"""
UDP = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
    " 2093: 0100007F:14E9 00000000:0000 07 00000000:{queue} 00:00000000 00000000     0\n"
)


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Process 70, which has nothing that CRIU would lose."""
    monkeypatch.setattr(unsupported, "_PROC", tmp_path)
    (tmp_path / "net").mkdir()
    (tmp_path / "net/igmp").write_text(IGMP)
    (tmp_path / "net/udp").write_text(UDP.format(queue="00000000"))
    (tmp_path / "net/unix").write_text(UNIX)
    (tmp_path / "root/run").mkdir(parents=True)
    (tmp_path / "root/run/socket").touch()
    (tmp_path / "root/var").mkdir()
    (tmp_path / "root/var/run").symlink_to("/run")
    process = tmp_path / "70"
    for name in ("fd", "fdinfo"):
        (process / name).mkdir(parents=True)
    (process / "personality").write_text("00000000\n")
    (process / "timers").write_text("ID: 0\nsignal: 14/0000\nnotify: signal/pid.70\nClockID: 1\n")
    (process / "fd/3").symlink_to("anon_inode:[eventfd]")
    (process / "fdinfo/3").write_text("eventfd-count: 0\neventfd-semaphore: 0\n")
    (process / "fd/4").symlink_to("/etc/passwd")
    return process


def root(process: Path) -> Path:
    return process.parent / "root"


def refused(process: Path) -> Refusal:
    with pytest.raises(RefusedByGuest) as caught:
        unsupported.check([process.name], root(process))
    return Refusal(caught.value.message, str(caught.value.hint))


def test_what_has_nothing_of_the_kind_passes(process: Path) -> None:
    unsupported.check([process.name, "71"], root(process))  # 71 has ended meanwhile


def test_a_semaphore_is_found_among_eventfds(process: Path) -> None:
    (process / "fdinfo/3").write_text("eventfd-count: 0\neventfd-semaphore: 1\n")
    assert refused(process) == unsupported.SEMAPHORE


def test_a_timer_for_the_first_thread_is_refused_and_for_another_not(process: Path) -> None:
    (process / "timers").write_text("ID: 0\nnotify: signal/tid.71\nClockID: 1\n")
    unsupported.check([process.name], root(process))
    (process / "timers").write_text("ID: 0\nnotify: signal/tid.70\nClockID: 1\n")
    assert refused(process) == unsupported.LEADER_TIMER


def test_another_personality_is_refused(process: Path) -> None:
    (process / "personality").write_text("00040000\n")
    assert refused(process) == unsupported.PERSONALITY


def test_a_multicast_group_is_refused(process: Path) -> None:
    joined = IGMP + "				010101E0     1 0:00000000		0\n"
    (process.parent / "net/igmp").write_text(joined)
    assert refused(process) == unsupported.MULTICAST


def test_datagrams_that_wait_are_seen(process: Path) -> None:
    assert not unsupported.datagrams_wait()
    (process.parent / "net/udp").write_text(UDP.format(queue="00000300"))
    assert unsupported.datagrams_wait()


def test_a_unix_listener_whose_name_was_deleted_is_refused(process: Path) -> None:
    (root(process) / "run/socket").unlink()
    assert refused(process) == unsupported.NAMELESS
