"""configfs-tsm, by a fake that answers as Documentation/ABI/testing/configfs-tsm-report says.

What the text leaves open is as drivers/virt/coco/tsm.c has it: a binary attribute is taken at
close, where its error is lost; ``generation`` counts what was taken; reading ``outblob`` makes the
report.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sevfork.agent.evidence.hardware import HardwareProvider
from sevfork.agent.evidence.select import hardware_provider
from sevfork.agent.evidence.tsm import ConfigfsReports, TsmSource
from sevfork.errors import AttestationFailed, TimedOut
from sevfork.technology import Technology

DATA = bytes(range(64))


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@dataclass
class Entry:
    """One report's directory."""

    inblob: bytes = b""
    write_generation: int = 0
    read_generation: int = -1
    outblob: bytes = b""


@dataclass
class FakeConfigfs:
    """/sys/kernel/config/tsm/report; ``failures`` are what the firmware answers first."""

    provider: str | None = "tdx_guest"
    auxblob: bytes | None = None
    failures: list[int] = field(default_factory=list)
    lost_writes: int = 0
    intrusions: int = 0
    cannot_remove: bool = False
    entries: dict[str, Entry] = field(default_factory=dict)
    writes: list[bytes] = field(default_factory=list)
    reports_made: int = 0

    def make(self, name: str) -> None:
        if self.provider is None:
            raise error(errno.ENXIO)
        if name in self.entries:
            raise error(errno.EEXIST)
        self.entries[name] = Entry()

    def remove(self, name: str) -> None:
        if self.cannot_remove:
            raise error(errno.EBUSY)
        del self.entries[name]

    def write(self, name: str, attribute: str, data: bytes) -> None:
        assert attribute == "inblob"
        self.writes.append(data)
        if len(data) > 64:
            raise error(errno.EFBIG)
        if self.lost_writes:
            self.lost_writes -= 1
            return
        self._take(self.entries[name], data)

    def _take(self, entry: Entry, data: bytes) -> None:
        entry.inblob = data
        entry.write_generation += 1

    def read(self, name: str, attribute: str) -> bytes:
        reader: dict[str, Callable[[Entry], bytes]] = {
            "provider": self._provider,
            "generation": lambda entry: b"%d\n" % entry.write_generation,
            "outblob": self._outblob,
            "auxblob": self._auxblob,
        }
        return reader[attribute](self.entries[name])

    def _provider(self, entry: Entry) -> bytes:
        if self.provider is None:
            raise error(errno.ENXIO)
        return self.provider.encode() + b"\n"

    def _outblob(self, entry: Entry) -> bytes:
        if self.provider is None:
            raise error(errno.ENXIO)
        if not entry.inblob:
            raise error(errno.EINVAL)
        if self.failures:
            raise error(self.failures.pop(0))
        if entry.read_generation != entry.write_generation:
            self.reports_made += 1
            entry.outblob = b"report over " + entry.inblob
            entry.read_generation = entry.write_generation
        if self.intrusions:
            self.intrusions -= 1
            self._take(entry, b"\xee" * 64)
        return entry.outblob

    def _auxblob(self, entry: Entry) -> bytes:
        if self.auxblob is None:
            raise error(errno.ENOENT)
        return self.auxblob


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def __call__(self) -> float:
        return self.now_s


def provider(
    configfs: FakeConfigfs, technology: Technology = Technology.TDX, **options: object
) -> HardwareProvider:
    clock = Clock()
    source = TsmSource(technology, configfs)
    return HardwareProvider(technology, source, clock=clock, sleep=clock.sleep, **options)  # type: ignore[arg-type]


def test_a_tdx_quote_has_no_certificates_beside_it() -> None:
    configfs = FakeConfigfs()
    evidence = provider(configfs).evidence(DATA)
    assert evidence.technology is Technology.TDX
    assert evidence.report == b"report over " + DATA
    assert evidence.certificates == b""


def test_an_snp_report_comes_with_the_hosts_certificates() -> None:
    configfs = FakeConfigfs("sev_guest", auxblob=b"the table")
    evidence = provider(configfs, Technology.SEV_SNP).evidence(DATA)
    assert (evidence.report, evidence.certificates) == (b"report over " + DATA, b"the table")


@pytest.mark.parametrize("auxblob", [b"", bytes(4096)])
def test_where_the_host_gave_no_certificates_there_are_none(auxblob: bytes) -> None:
    configfs = FakeConfigfs("sev_guest", auxblob=auxblob)
    assert provider(configfs, Technology.SEV_SNP).evidence(DATA).certificates == b""


def test_the_64_bytes_go_in_with_one_write() -> None:
    configfs = FakeConfigfs()
    provider(configfs).evidence(DATA)
    assert configfs.writes == [DATA]


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_of_another_size_is_refused_before_the_kernel_sees_it(size: int) -> None:
    configfs = FakeConfigfs()
    with pytest.raises(AttestationFailed, match=f"{size} bytes, not 64"):
        provider(configfs).evidence(bytes(size))
    assert configfs.writes == []


def test_nothing_is_left_behind() -> None:
    configfs = FakeConfigfs()
    provider(configfs).evidence(DATA)
    assert configfs.entries == {}


def test_nothing_is_left_behind_after_a_failure() -> None:
    configfs = FakeConfigfs(failures=[errno.EIO])
    with pytest.raises(AttestationFailed, match="EIO"):
        provider(configfs).evidence(DATA)
    assert configfs.entries == {}


def test_a_directory_that_cannot_be_removed_does_not_spoil_the_report(
    caplog: pytest.LogCaptureFixture,
) -> None:
    configfs = FakeConfigfs(cannot_remove=True)
    assert provider(configfs).evidence(DATA).report == b"report over " + DATA
    assert "was not removed" in caplog.text


def test_a_write_by_somebody_else_is_noticed_and_the_report_asked_for_again() -> None:
    configfs = FakeConfigfs(intrusions=1)
    assert provider(configfs).evidence(DATA).report == b"report over " + DATA
    assert configfs.writes == [DATA, DATA]


def test_somebody_who_always_writes_in_between_ends_at_the_deadline() -> None:
    configfs = FakeConfigfs(intrusions=10_000)
    with pytest.raises(TimedOut):
        provider(configfs, deadline_s=2).evidence(DATA)
    assert configfs.entries == {}


def test_a_write_that_the_kernel_dropped_is_no_report() -> None:
    configfs = FakeConfigfs(lost_writes=1)
    with pytest.raises(AttestationFailed, match="EINVAL"):
        provider(configfs).evidence(DATA)


@pytest.mark.parametrize("number", [errno.EBUSY, errno.ETIMEDOUT, errno.EINTR, errno.EAGAIN])
def test_a_busy_firmware_is_asked_again(number: int) -> None:
    configfs = FakeConfigfs(failures=[number, number])
    assert provider(configfs).evidence(DATA).report == b"report over " + DATA
    assert configfs.reports_made == 1


def test_a_firmware_that_stays_busy_ends_at_the_deadline() -> None:
    configfs = FakeConfigfs(failures=[errno.EBUSY] * 10_000)
    with pytest.raises(TimedOut, match="no report in 5 s"):
        provider(configfs, deadline_s=5).evidence(DATA)
    assert len(configfs.failures) > 10_000 - 5 / 0.2 - 2


def test_a_kernel_without_a_provider_says_so() -> None:
    with pytest.raises(AttestationFailed, match="no TSM provider"):
        provider(FakeConfigfs(provider=None)).evidence(DATA)


def test_a_provider_that_goes_away_meanwhile_says_so() -> None:
    with pytest.raises(AttestationFailed, match="no TSM provider"):
        provider(FakeConfigfs(failures=[errno.ENXIO])).evidence(DATA)


def test_an_invalid_request_is_not_repeated() -> None:
    configfs = FakeConfigfs(failures=[errno.EINVAL])
    with pytest.raises(AttestationFailed, match="EINVAL"):
        provider(configfs).evidence(DATA)
    assert len(configfs.writes) == 1


def test_an_image_for_tdx_takes_no_snp_report() -> None:
    with pytest.raises(AttestationFailed, match="'sev_guest', this image is for 'tdx_guest'"):
        provider(FakeConfigfs("sev_guest")).evidence(DATA)


# the kernel's own file system, as far as ordinary files are like it


def test_attributes_are_files_that_are_never_created(tmp_path: Path) -> None:
    reports = ConfigfsReports(tmp_path)
    reports.make("r")
    with pytest.raises(FileNotFoundError):
        reports.write("r", "inblob", DATA)
    tmp_path.joinpath("r/inblob").touch()
    reports.write("r", "inblob", DATA)
    assert reports.read("r", "inblob") == DATA
    tmp_path.joinpath("r/inblob").unlink()
    reports.remove("r")
    assert list(tmp_path.iterdir()) == []


def test_a_kernel_without_configfs_tsm_says_so(tmp_path: Path) -> None:
    source = TsmSource(Technology.TDX, ConfigfsReports(tmp_path / "absent"))
    with pytest.raises(AttestationFailed, match="no configfs-tsm"):
        HardwareProvider(Technology.TDX, source).evidence(DATA)


# which interface


def test_configfs_comes_first(tmp_path: Path) -> None:
    chosen = hardware_provider(Technology.SEV_SNP, reports=tmp_path, device=Path("/dev/null"))
    assert isinstance(chosen, HardwareProvider)
    assert isinstance(chosen.source, TsmSource)


def test_an_older_kernel_has_the_device(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    chosen = hardware_provider(Technology.SEV_SNP, reports=absent, device=Path("/dev/null"))
    assert chosen.technology is Technology.SEV_SNP
    # The device is there, and is none: what the kernel says of that is not hidden.
    with pytest.raises(AttestationFailed, match="key is disabled"):
        chosen.evidence(DATA)


@pytest.mark.parametrize("technology", [Technology.TDX, Technology.SEV_SNP])
def test_a_guest_with_neither_has_no_evidence(technology: Technology, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    with pytest.raises(AttestationFailed, match="no way to evidence"):
        hardware_provider(technology, reports=absent, device=absent)


def test_hardware_never_stands_in_for_the_simulator(tmp_path: Path) -> None:
    with pytest.raises(AttestationFailed, match="no technology of hardware"):
        hardware_provider(Technology.SIMULATED, reports=tmp_path)
