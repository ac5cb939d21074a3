"""The command ``sevfork``: verbs are loaded when they are used, errors end here.

Exit codes are a public contract: ``docs/exit-codes.md``.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

import click

from sevfork import __version__
from sevfork.cli.options import App
from sevfork.errors import HostCannot, SevforkError

# Verb -> module and attribute: `sevfork --help` imports none of libvirt, rich or cryptography.
VERBS = {
    "doctor": ("sevfork.cli.doctor:doctor", "What this host can do, what is missing."),
    "guest": ("sevfork.cli.guest:guest", "The measured guest image."),
    "up": ("sevfork.cli.up:up", "Define and start a fork-ready VM."),
    "fork": ("sevfork.cli.fork:fork", "Fork a running VM."),
    "snapshot": ("sevfork.cli.snapshot:snapshot", "Keep a snapshot, so that forks are quick."),
    "pool": ("sevfork.cli.pool:pool", "Keep warm children for forks to take."),
    "wait": ("sevfork.cli.wait:wait", "Wait until workloads have ended, and how."),
    "events": ("sevfork.cli.events:events", "What happens to a VM's children, told to it."),
    "ls": ("sevfork.cli.ls:ls", "List VMs, and who descends from whom."),
    "attest": ("sevfork.cli.attest:attest", "Fresh evidence from a running VM."),
    "owner": ("sevfork.cli.owner:owner", "An owner's key, and what it signs."),
    "lineage": ("sevfork.cli.lineage:lineage", "Whom a VM descends from, back to its owner."),
    "logs": ("sevfork.cli.logs:logs", "What a VM's workload prints."),
    "log": ("sevfork.cli.log:log", "What a VM has granted and refused, in its own words."),
    "verify": ("sevfork.cli.verify:verify", "Check evidence, on any machine."),
    "certs": ("sevfork.cli.certs:certs", "Get what evidence is checked by."),
    "policy": ("sevfork.cli.policy:policy", "A commented policy to begin with."),
    "measure": ("sevfork.cli.measure:measure", "The expected launch digest of an image."),
    "exec": ("sevfork.cli.exec:exec", "Run a command inside a VM."),
    "stop": ("sevfork.cli.stop:stop", "End a workload in good order, and its VM."),
    "rm": ("sevfork.cli.rm:rm", "Remove VMs and everything made for them."),
}


_OF_HOSTS = ("libvirt", "libvirt_qemu", "lxml")


class Terminated(BaseException):
    """SIGTERM: raised in the main thread so that everything is cleaned up on the way out."""


class Verbs(click.Group):
    """A group that imports a verb when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module, _, attribute = VERBS[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sevfork")
@click.option(
    "-c",
    "--connect",
    metavar="URI",
    help="The libvirt to talk to.  [env: SEVFORK_CONNECT, LIBVIRT_DEFAULT_URI]",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but data and errors.")
@click.option("--debug", is_flag=True, help="Log every step on stderr.")
@click.pass_obj
def cli(app: App, connect: str | None, quiet: bool, debug: bool) -> None:
    """fork(2) for confidential VMs: AMD SEV-SNP, Intel TDX, or simulated."""
    app.merge(connect, quiet, debug)


def main() -> NoReturn:
    """The console script."""
    app = App()
    code = run(app, sys.argv[1:])
    sys.stderr.flush()
    sys.exit(code)


def run(app: App, arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    handle_signals(app)
    try:
        result = cli.main(args=arguments, prog_name="sevfork", standalone_mode=False, obj=app)
    except SevforkError as exc:
        return _report(app, exc)
    except click.ClickException as exc:
        exc.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        app.output.note("interrupted")
        return 128 + signal.SIGINT
    except Terminated:
        app.output.note("terminated")
        return 128 + signal.SIGTERM
    except BrokenPipeError:
        # The reader of stdout has gone (`sevfork ls | head -1`): nothing more to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except ModuleNotFoundError as exc:
        return _report_missing(app, exc)
    except Exception as exc:
        return _report_unexpected(app, exc)
    return result if isinstance(result, int) else 0  # what a verb gave to Context.exit


def _report(app: App, error: SevforkError) -> int:
    _log_traceback(app, error)
    app.output.error(error)
    return error.exit_code


def _report_missing(app: App, error: ModuleNotFoundError) -> int:
    """An owner's machine needs neither libvirt nor what speaks its XML, unless it asks a host."""
    if error.name not in _OF_HOSTS:
        return _report_unexpected(app, error)
    return _report(
        app,
        HostCannot(
            f"this talks to libvirt, and the Python package '{error.name}' is not installed",
            hint="pip install 'sevfork[host]'",
        ),
    )


def _report_unexpected(app: App, error: Exception) -> int:
    _log_traceback(app, error)
    text = f"{type(error).__name__}: {error}"
    app.output.error(SevforkError(f"unexpected: {text}", hint="run it again with --debug"))
    return 1


def _log_traceback(app: App, error: Exception) -> None:
    if app.debug:
        import logging

        logging.getLogger(__name__).debug("the error came from here", exc_info=error)


def handle_signals(app: App) -> None:
    """The first signal ends the command and cleans up; further ones must not disturb that."""

    def on_signal(number: int, _frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, still_cleaning)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def still_cleaning(_number: int, _frame: Any) -> None:
        app.output.note("cleaning up (what `kill -9` leaves behind, the next command removes)")

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, on_signal)
