"""Debian packages: what apt says it would install, and the entries of a package index."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sevfork.errors import NotAuthentic

# "Inst libc6 (2.41-12 Debian:13.2/stable [amd64])", as `apt-get --simulate install` prints it.
_INSTALL = re.compile(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", re.MULTILINE)
_KERNEL_IMAGE = re.compile(r"linux-image-\d[^\s,|(]*")


@dataclass(frozen=True, order=True)
class Package:
    """One binary package of a signed index; ``stanza`` is its entry there."""

    name: str
    version: str
    architecture: str
    sha256: str
    size_bytes: int
    stanza: str

    @property
    def file_name(self) -> str:
        """The name under which apt stores it (it quotes the colon of an epoch)."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


def simulated_installs(output: str) -> list[str]:
    """``name=version`` of everything that `apt-get --simulate install` would install."""
    return [f"{name}={version}" for name, version in _INSTALL.findall(output)]


def index_entries(text: str) -> list[Package]:
    """The packages of an index, sorted by name. Raise NotAuthentic when a hash is missing."""
    return sorted({_package(stanza) for stanza in re.split(r"\n{2,}", text.strip())})


def _package(stanza: str) -> Package:
    fields = dict(
        line.split(": ", 1) for line in stanza.splitlines() if re.match(r"[\w-]+: ", line)
    )
    try:
        return Package(
            fields["Package"],
            fields["Version"],
            fields["Architecture"],
            fields["SHA256"],
            int(fields["Size"]),
            stanza,
        )
    except (KeyError, ValueError) as exc:
        raise NotAuthentic(f"package index: an entry lacks {exc}") from exc


def kernel_package(stanza: str) -> str:
    """The versioned kernel image that a kernel meta-package depends on."""
    found = _KERNEL_IMAGE.findall(stanza.partition("Depends: ")[2].partition("\n")[0])
    if len(found) != 1:
        raise NotAuthentic("package index: the kernel's package names no single kernel image")
    return str(found[0])


def is_kernel_name(name: str) -> bool:
    return bool(_KERNEL_IMAGE.fullmatch(name))


def is_kernel(package: Package) -> bool:
    return is_kernel_name(package.name)


def local_index(packages: Iterable[Package]) -> str:
    """A package index for a directory that holds the packages under their ``file_name``."""
    return "\n\n".join(
        re.sub(r"^Filename: .*$", f"Filename: ./{package.file_name}", package.stanza, flags=re.M)
        for package in sorted(packages)
    )


def names(packages: Sequence[Package]) -> list[str]:
    return [package.name for package in packages]
