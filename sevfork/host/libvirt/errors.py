"""libvirt's errors as sevfork's, and the one place where calls to it are logged."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import libvirt

from sevfork.errors import HostCannot, HypervisorUnreachable, SevforkError, TimedOut, WrongState

log = logging.getLogger(__name__)

_Function = TypeVar("_Function", bound=Callable[..., Any])

_UNREACHABLE = {
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
    libvirt.VIR_ERR_RPC,
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_CANCELLED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
    libvirt.VIR_ERR_NO_CLIENT,
}
_HOST_CANNOT = {
    libvirt.VIR_ERR_NO_SUPPORT,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
    libvirt.VIR_ERR_NO_MEMORY,
    libvirt.VIR_ERR_NO_KVM if hasattr(libvirt, "VIR_ERR_NO_KVM") else -1,
}
_WRONG_STATE = {
    libvirt.VIR_ERR_NO_DOMAIN,
    libvirt.VIR_ERR_OPERATION_INVALID,
    libvirt.VIR_ERR_NO_DOMAIN_METADATA,
    libvirt.VIR_ERR_NO_STORAGE_VOL,
    libvirt.VIR_ERR_NO_STORAGE_POOL,
}
_TIMED_OUT = {libvirt.VIR_ERR_OPERATION_TIMEOUT}
_FULL_OR_BROKEN = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
_NO_MEMORY = re.compile(r"cannot (set up guest memory|allocate memory)", re.IGNORECASE)


def translate(error: libvirt.libvirtError) -> SevforkError:
    """Our error for libvirt's, with libvirt's own words in the message."""
    code, message = error.get_error_code(), first_line(error)
    if _NO_MEMORY.search(message):
        hint = "give it less --memory, or end another VM"
        return HostCannot(f"not enough free memory for the VM: {message}", hint=hint)
    if code in _UNREACHABLE or error.get_error_domain() == libvirt.VIR_FROM_RPC:
        return HypervisorUnreachable(f"libvirt does not answer: {message}")
    for codes, kind in (
        (_HOST_CANNOT, HostCannot),
        (_WRONG_STATE, WrongState),
        (_TIMED_OUT, TimedOut),
    ):
        if code in codes:
            return kind(f"libvirt: {message}")
    return SevforkError(f"libvirt: {message}")


def first_line(error: libvirt.libvirtError) -> str:
    lines = (error.get_error_message() or str(error)).strip().splitlines()
    return lines[-1].strip() if lines else "unknown error"


@contextlib.contextmanager
def asking(what: str, *about: object) -> Iterator[None]:
    """Log what is asked of libvirt, and turn every libvirtError that leaves the block into ours."""
    log.debug("%s %s", what, " ".join(_short(each) for each in about))
    try:
        yield
    except libvirt.libvirtError as exc:
        raise translate(exc) from exc


def _short(argument: object) -> str:
    return " ".join(str(argument).split())[:60]


def asks(method: _Function) -> _Function:
    """``asking`` around every call of a method."""

    @functools.wraps(method)
    def call(self: object, *args: Any, **kwargs: Any) -> Any:
        with asking(method.__name__, *args, *kwargs.values()):
            return method(self, *args, **kwargs)

    return call  # type: ignore[return-value]  # the same signature, by construction


def is_full_or_broken(error: libvirt.libvirtError) -> bool:
    """Whether a file system of the libvirt host has no room left, is read-only or fails.

    The first number of a system error is the errno (libvirt's ``virReportSystemErrorFull``).
    """
    return has_code(error, libvirt.VIR_ERR_SYSTEM_ERROR) and error.get_int1() in _FULL_OR_BROKEN


def has_code(error: libvirt.libvirtError, *codes: int) -> bool:
    return error.get_error_code() in codes


@contextlib.contextmanager
def ignoring(*codes: int) -> Iterator[None]:
    """Let errors with these codes pass: what was to be brought about is so already."""
    try:
        yield
    except libvirt.libvirtError as exc:
        if not has_code(exc, *codes):
            raise
