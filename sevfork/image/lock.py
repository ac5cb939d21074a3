"""The lock file: which version of which package the image was last built from.

One line per package, ``name version architecture sha256``, sorted, behind ``epoch SECONDS``, the
time that every file of the image carries. It covers the union of what was built with
``--update-lock``, so that several workloads share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sevfork.errors import NotAuthentic, UsageError
from sevfork.image.packages import Package, is_kernel_name

_HEADER = """\
# Written by `sevfork guest build --update-lock`; see docs/guest-image.md.
# name version architecture sha256
"""


@dataclass(frozen=True)
class Locked:
    version: str
    architecture: str
    sha256: str


@dataclass(frozen=True)
class Lock:
    """``epoch_s`` (Unix time) and the locked packages by name."""

    epoch_s: int = 0
    packages: Mapping[str, Locked] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Lock:
        """Raise UsageError unless text is a well-formed lock file."""
        epoch_s, packages = None, {}
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        for line in lines:
            match line.split(" "):
                case ["epoch", seconds] if seconds.isdigit() and epoch_s is None:
                    epoch_s = int(seconds)
                case [name, version, architecture, sha256] if name not in packages:
                    packages[name] = Locked(version, architecture, sha256)
                case _:
                    raise UsageError(f"lock file: cannot read '{line}'")
        if epoch_s is None:
            raise UsageError("lock file: no 'epoch'")
        return cls(epoch_s, packages)

    def render(self) -> str:
        lines = [
            f"{name} {locked.version} {locked.architecture} {locked.sha256}\n"
            for name, locked in sorted(self.packages.items())
        ]
        return f"{_HEADER}epoch {self.epoch_s}\n{''.join(lines)}"

    def updated(self, packages: Iterable[Package], epoch_s: int) -> Lock:
        """This lock with the given packages in place of those of the same name.

        A kernel's version is part of its name: kernels that are not given are dropped.
        """
        new = {p.name: Locked(p.version, p.architecture, p.sha256) for p in packages}
        kept = {name: old for name, old in self.packages.items() if not is_kernel_name(name)}
        return Lock(epoch_s, {**kept, **new})

    def moved(self, packages: Iterable[Package]) -> tuple[str, ...]:
        """What differs from the lock. Raise NotAuthentic for the same version with another hash."""
        return tuple(line for package in packages if (line := self._moved(package)))

    def _moved(self, package: Package) -> str | None:
        locked = self.packages.get(package.name)
        if locked is None:
            return f"{package.name} {package.version} is not in the lock file"
        if locked.version != package.version:
            return f"{package.name}: locked {locked.version}, taken {package.version}"
        if locked.sha256 != package.sha256:
            raise NotAuthentic(
                f"'{package.name}' {package.version} has another SHA-256 than the lock file says",
                hint="the mirror serves another file under the same version: do not use it",
            )
        return None

    def pins(self) -> str:
        """apt preferences that take each locked version while the mirror has it."""
        return "".join(
            f"Package: {name}\nPin: version {locked.version}\nPin-Priority: 1001\n\n"
            for name, locked in sorted(self.packages.items())
        )
