"""A private apt: resolves and fetches packages without touching the host's own package state.

Taken from the host are the transport settings (a proxy, for instance) and the archive's keys;
which versions are chosen depends on the recipe and on the lock only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from sevfork.errors import HostCannot, NotAuthentic, SevforkError
from sevfork.image.lock import Lock
from sevfork.image.packages import Package, index_entries, kernel_package, simulated_installs
from sevfork.image.recipe import Debian
from sevfork.process import run

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_TRANSPORT = re.compile(
    r"^Acquire::(?:https?|socks|Retries|Check-|Max-|ForceIPv)\S* \".*\";$", re.M
)
# apt counts itself among the essential packages; a guest that never changes needs none.
_ESSENTIAL = "?and(?essential, ?not(?exact-name(apt)))"
_RELEASE_DATE = re.compile(r"^Date: (.+)$", re.M)
_DOWNLOAD_TIMEOUT_S = 900


def sources(debian: Debian, mirror: str) -> str:
    """The source list: the suite, its updates, its security suite, and the newer suite."""
    security = f"{mirror.removesuffix('/debian')}/debian-security"
    places = [(mirror, debian.suite), (mirror, f"{debian.suite}-updates")]
    places += [(security, f"{debian.suite}-security")] if debian.security else []
    places += [(mirror, debian.newer_suite)]
    components = " ".join(debian.components)
    return "".join(f"deb {place} {suite} {components}\n" for place, suite in places)


def preferences(debian: Debian, lock: Lock) -> str:
    """Locked versions first; from the newer suite only what the recipe names."""
    release = f"Pin: release n={debian.newer_suite}"
    newer = "".join(
        f"Package: {name}\n{release}\nPin-Priority: 990\n\n" for name in debian.newer_packages
    )
    return f"{lock.pins()}{newer}Package: *\n{release}\nPin-Priority: 100\n"


def configuration(directory: Path, transport: str) -> str:
    """apt.conf of a private apt that lives in ``directory``."""
    return f"""\
Dir "{directory}";
Dir::State "state";
Dir::State::status "{directory}/status";
Dir::Cache "cache";
Dir::Etc "etc";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trusted "{KEYRING}";
Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Install-Recommends "0";
APT::Sandbox::User "root";
Acquire::Languages "none";
{transport}
"""


class Unresolvable(HostCannot):
    """The wanted packages do not go together in the versions that apt may choose."""


@dataclass(frozen=True)
class PrivateApt:
    """An apt with its own state in ``directory``; ``packages_directory`` keeps what it fetched."""

    directory: Path
    packages_directory: Path

    def set_up(self, debian: Debian, mirror: str, lock: Lock) -> None:
        """Write the configuration and fetch the (signed) package indexes."""
        for name in ("etc", "state/lists/partial", "cache/archives/partial"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self.packages_directory.mkdir(parents=True, exist_ok=True)
        transport = run(["apt-config", "dump", "Acquire"], timeout_s=30).stdout
        (self.directory / "status").write_text("")
        (self.directory / "etc/sources.list").write_text(sources(debian, mirror))
        (self.directory / "etc/preferences").write_text(preferences(debian, lock))
        (self.directory / "apt.conf").write_text(
            configuration(self.directory, "\n".join(_TRANSPORT.findall(transport)))
        )
        self._run("apt-get", "update", "-qq", "--error-on=any")

    def resolve(self, wanted: Sequence[str]) -> list[Package]:
        """The wanted packages, the essential ones, and all they depend on."""
        try:
            chosen = self._run("apt-get", "install", "-qq", "--simulate", _ESSENTIAL, *wanted)
        except HostCannot as exc:
            raise Unresolvable(exc.message, hint=exc.hint) from exc
        return self._entries(simulated_installs(chosen))

    def resolve_kernel(self, meta_package: str) -> Package:
        """The kernel image that the meta-package stands for (it is unpacked, never installed)."""
        meta = self._run("apt-cache", "show", "--no-all-versions", meta_package)
        return self._entries([kernel_package(meta)])[0]

    def fetch(self, packages: Sequence[Package]) -> None:
        """Download what is not there yet, and check the SHA-256 of every file."""
        missing = [p for p in packages if not (self.packages_directory / p.file_name).exists()]
        if missing:
            exact = [f"{package.name}={package.version}" for package in missing]
            self._run("apt-get", "download", "-qq", *exact, cwd=self.packages_directory)
        for package in packages:
            check_file(self.packages_directory / package.file_name, package)

    def newest_release(self) -> int:
        """When the newest of the mirror's suites was published (Unix time)."""
        lists = (self.directory / "state/lists").glob("*_InRelease")
        dates = [_RELEASE_DATE.search(path.read_text(errors="replace")) for path in lists]
        return max(int(parsedate_to_datetime(date[1]).timestamp()) for date in dates if date)

    def _entries(self, exact: Sequence[str]) -> list[Package]:
        return index_entries(self._run("apt-cache", "show", "--no-all-versions", *exact))

    def _run(self, *argv: str, cwd: Path | None = None) -> str:
        env = {"APT_CONFIG": str(self.directory / "apt.conf"), "LC_ALL": "C"}
        try:
            return run(argv, timeout_s=_DOWNLOAD_TIMEOUT_S, env=env, cwd=cwd).stdout
        except SevforkError as exc:
            raise HostCannot(
                f"the guest's packages cannot be had: {exc.message}",
                hint="is the mirror reachable? SEVFORK_DEBIAN_MIRROR names another one",
            ) from exc


def check_file(path: Path, package: Package) -> None:
    """Raise NotAuthentic, and remove the file, unless it is what the signed index says."""
    if hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
        path.unlink()
        raise NotAuthentic(f"'{path.name}' is not the file that the package index names")
