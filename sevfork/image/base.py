"""The cached stage: Debian packages and wheels unpacked, pruned and compiled; the kernel unpacked.

It depends on the recipe, the lock and the set of packages, so that several workload images with
the same packages share it. Layout of a cached base: ``root.tar``, ``initramfs/`` (the programs of
the initramfs and their libraries), ``kernel/`` (the kernel package, unpacked), ``base.json``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from msgspec import Struct

from sevfork.agent.criu import version as criu_version
from sevfork.deadline import Deadline
from sevfork.errors import HostCannot, UsageError
from sevfork.image import fork_id, install
from sevfork.image.apt import PrivateApt, Unresolvable
from sevfork.image.guest_root import GuestRoot
from sevfork.image.lock import Lock
from sevfork.image.packages import Package, is_kernel
from sevfork.image.recipe import Recipe
from sevfork.process import run

# How a build says what it is doing: called when a phase begins.
Say = Callable[[str], None]

# Raised when a stage begins to make something else of the same inputs.
_REVISION = 2
_WAIT_S = 900
_POLL_S = 0.2
_BASES_KEPT = 6


class PackageVersion(Struct, frozen=True, order=True):
    name: str
    version: str
    architecture: str
    sha256: str


class BaseInfo(Struct, frozen=True):
    """What went into a base; ``moved`` says what differs from the lock, a line each."""

    epoch_s: int
    packages: tuple[PackageVersion, ...]
    moved: tuple[str, ...]


@dataclass(frozen=True)
class BaseRequest:
    """Everything that a base depends on. ``epoch_s`` None: the lock's, else the mirror's date."""

    recipe: Recipe
    lock: Lock
    packages: tuple[str, ...]
    wheels: str
    fork_id: str
    epoch_s: int | None

    @property
    def key(self) -> str:
        inputs = [
            *(_REVISION, msgspec.to_builtins(self.recipe.debian), self.recipe.root.prune),
            *(self.lock.render(), self.wanted, self.wheels, self.fork_id, self.epoch_s),
        ]
        return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:32]

    @property
    def wanted(self) -> list[str]:
        debian = self.recipe.debian
        return sorted(
            {
                *debian.packages,
                *debian.initramfs_packages,
                *debian.compiler_packages,
                *self.packages,
            }
        )


@dataclass(frozen=True)
class Base:
    directory: Path
    info: BaseInfo

    @property
    def root_archive(self) -> Path:
        return self.directory / "root.tar"

    @property
    def initramfs(self) -> Path:
        return self.directory / "initramfs"

    @property
    def kernel(self) -> Path:
        return self.directory / "kernel"


class BaseCache:
    """Bases by their key in ``directory``, with the private apt that fetches what they need."""

    def __init__(self, directory: Path, mirror: str, say: Say) -> None:
        self._directory = directory
        self._mirror = mirror
        self._say = say

    def get(self, request: BaseRequest, *, refresh: bool, locked: bool) -> Base:
        """The base, made if it is not there. ``refresh`` asks the mirror even when it is.

        Raises UsageError, before anything is built, when ``locked`` and something moved.
        """
        place = self._directory / "bases" / request.key
        if not place.is_dir():
            require_root()
        with exclusive(self._directory / "lock"):
            if place.is_dir() and not refresh:
                os.utime(place)
                base = Base(place, read_info(place))
                require_locked(base.info.moved, locked)
                require_criu(base.info.packages)
                return base
            return self._make(request, place, locked)

    def newest(self, request: BaseRequest) -> Lock:
        """The request's lock, brought to what the mirror has now."""
        apt = self._apt()
        with exclusive(self._directory / "lock"):
            packages = self.resolve(apt, replace(request, lock=Lock()), False)
            return request.lock.updated(packages, apt.newest_release())

    def _make(self, request: BaseRequest, place: Path, locked: bool) -> Base:
        require_root()
        apt = self._apt()
        packages = self.resolve(apt, request, locked)
        moved = request.lock.moved(packages)
        require_locked(moved, locked)
        self._say(f"fetching {len(packages)} packages ({_megabytes(packages):.0f} MB)")
        apt.fetch(packages)
        info = BaseInfo(
            request.epoch_s or request.lock.epoch_s or apt.newest_release(),
            tuple(sorted(_version(package) for package in packages)),
            moved,
        )
        with _work_directory(place.parent) as work:
            self._build(work, request, packages, apt.packages_directory, info)
            _replace(work / "base", place)
        _forget_old(place.parent)
        return Base(place, info)

    def _apt(self) -> PrivateApt:
        return PrivateApt(self._directory / "apt", self._directory / "packages")

    def resolve(self, apt: PrivateApt, request: BaseRequest, locked: bool) -> list[Package]:
        """All packages, the kernel image included.

        The locked versions first; when those do not go together any more, the newest ones.
        """
        debian = request.recipe.debian
        attempts = [(request.lock, "choosing packages")]
        if not locked:
            attempts += [(Lock(), "the locked packages do not go together: trying the newest")]
        for pins, what in attempts:
            self._say(what)
            apt.set_up(debian, self._mirror, pins)
            try:
                packages = [*apt.resolve(request.wanted), apt.resolve_kernel(debian.kernel)]
            except Unresolvable as exc:
                failure = exc
            else:
                require_criu(packages)
                return sorted(packages)
        raise failure

    def _build(
        self,
        work: Path,
        request: BaseRequest,
        packages: Sequence[Package],
        fetched: Path,
        info: BaseInfo,
    ) -> None:
        base, root = work / "base", GuestRoot(work / "tree")
        base.mkdir()
        self._say("installing the packages")
        (kernel,) = (package for package in packages if is_kernel(package))
        run(["dpkg-deb", "-x", fetched / kernel.file_name, base / "kernel"], timeout_s=120)
        installed = [package for package in packages if package is not kernel]
        install.bootstrap(work / "repository", fetched, installed, root.directory, info.epoch_s)
        install.take_programs(root, base / "initramfs")
        fork_id.install(root, request.fork_id)
        install.prune(root, request.recipe.root.prune)
        self._say("adding the agent's libraries and compiling Python")
        install.unpack_wheels(request.wheels, work / "wheels", root)
        install.compile_python(root, install.COMPILED)
        install.settle(root)
        run(
            ["tar", "--sort=name", "--numeric-owner", "-C", str(root.directory)]
            + ["-cf", str(base / "root.tar"), "."],
            timeout_s=300,
        )
        (base / "base.json").write_bytes(msgspec.json.encode(info))


def require_locked(moved: Sequence[str], locked: bool) -> None:
    if moved and locked:
        raise UsageError(
            f"the mirror has moved on from the lock file: {'; '.join(moved)}",
            hint="leave out --locked, update it with --update-lock, or name a snapshot "
            "(http://snapshot.debian.org/archive/debian/DATE) in SEVFORK_DEBIAN_MIRROR",
        )


def require_criu(packages: Iterable[Package | PackageVersion]) -> None:
    """Raise HostCannot rather than build an image whose children would share random numbers."""
    for package in packages:
        if package.name == "criu" and not criu_version.is_new_enough(package.version):
            oldest = ".".join(map(str, criu_version.OLDEST))
            raise HostCannot(
                f"an image needs CRIU {oldest} or newer, and the mirror gives {package.version}",
                hint="older ones give children the same random numbers; name a mirror that has "
                "the recipe's newer suite in SEVFORK_DEBIAN_MIRROR",
            )


def require_root() -> None:
    """Owners and device nodes of the guest's file system can be made by root only."""
    if os.geteuid() != 0:
        raise HostCannot("building a guest image needs root", hint="run it with sudo")


def _megabytes(packages: Sequence[Package]) -> float:
    return sum(package.size_bytes for package in packages) / 1e6


def _version(package: Package) -> PackageVersion:
    return PackageVersion(package.name, package.version, package.architecture, package.sha256)


def _forget_old(bases: Path) -> None:
    """Keep the bases that were used last."""
    for place in sorted(bases.iterdir(), key=lambda p: p.stat().st_mtime)[:-_BASES_KEPT]:
        shutil.rmtree(place)


def read_info(place: Path) -> BaseInfo:
    return msgspec.json.decode((place / "base.json").read_bytes(), type=BaseInfo)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """One build at a time uses the private apt; another one waits for it, and says when in vain."""
    path.parent.mkdir(parents=True, exist_ok=True)
    late = f"another build has held '{path}' for {_WAIT_S} s"
    with path.open("w") as file:
        for _ in Deadline.after(_WAIT_S).poll(_POLL_S, late):
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
        yield


@contextmanager
def _work_directory(parent: Path) -> Iterator[Path]:
    """A directory that nobody else can enter: there are set-uid files in it for a while."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".work-", dir=parent) as work:
        yield Path(work)


def _replace(new: Path, place: Path) -> None:
    """Put a directory in place of another, or beside nothing when a concurrent build was first."""
    old = new.parent / "old"
    if place.exists():
        place.rename(old)
    new.rename(place)
