"""The one error tree: each class is a situation that a user can act on.

A message is lower case, without a full stop, with values quoted; the hint says what to do next. The
exit codes are a public contract (``docs/exit-codes.md``). No message ever holds a secret. What a
program of the workload printed is never in a message, which reach logs: it is in ``printed``.
"""


class SevforkError(Exception):
    """An error that ends a command with a message, a hint and an exit code."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, printed: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.printed = printed


class UsageError(SevforkError):
    """The command line, a configuration or a workload file is wrong."""

    exit_code = 2


class HypervisorUnreachable(SevforkError):
    """No libvirt answers at the connection that was asked for."""

    exit_code = 10


class WrongState(SevforkError):
    """There is no such VM, or it is not in a state in which this can be done."""

    exit_code = 11


class NameTaken(SevforkError):
    """A VM of that name exists already."""

    exit_code = 12


class HostCannot(SevforkError):
    """This host lacks what the operation needs: memory, a program, a technology."""

    exit_code = 13


class AttestationFailed(SevforkError):
    """Evidence was rejected, or a check of it could not be made."""

    exit_code = 20


class InsecureRefused(SevforkError):
    """Something insecure was asked for without saying so explicitly."""

    exit_code = 21


class NotAuthentic(SevforkError):
    """A sealed image or a message was changed, cut short, or is another one."""

    exit_code = 22


class RefusedByGuest(SevforkError):
    """The guest's policy, or the guest's state, does not allow this."""

    exit_code = 23


class RestoreFailed(SevforkError):
    """A workload was captured, and could not be brought back in a child."""

    exit_code = 24


class TimedOut(SevforkError):
    """A deadline passed."""

    exit_code = 30


class RolledBack(SevforkError):
    """The operation failed and everything it had made was removed again."""

    exit_code = 31


class ChildLeftBehind(SevforkError):
    """The operation failed and something it had made could not be removed."""

    exit_code = 32


class Lost(SevforkError):
    """A VM ended or fell silent, and how its workload ended is not known."""

    exit_code = 33
