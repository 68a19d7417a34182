# SPDX-License-Identifier: GPL-2.0-or-later
"""The command krg-provision. Each command's module is imported only when it runs."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING

import click

from provision import __version__
from provision.errors import KrgError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# name -> (module:attribute, the line shown in --help)
COMMANDS = {
    "doctor": ("provision.cli.doctor:doctor", "Say which tools are missing, and how to get them."),
    "fetch": ("provision.cli.fetch:fetch", "Obtain and verify a release's source archives."),
    "config": ("provision.cli.config:config", "Generate, check and compare kernel configurations."),
    "build-kernel": ("provision.cli.build:build_kernel", "Build kernel, module and tools."),
    "package": ("provision.cli.package:package", "Make Debian packages of a build."),
    "repo": ("provision.cli.repo:repo", "Let nodes pull packages with apt from a repository."),
    "lab": ("provision.cli.lab:lab", "Run a virtual cluster on this machine."),
    "init": ("provision.cli.init:init", "Write a cluster file from questions or a host list."),
    "deploy": ("provision.cli.deploy:deploy", "Install a build on nodes over SSH."),
    "verify": ("provision.cli.operate:verify", "Prove that nodes run the build."),
    "start": ("provision.cli.operate:start", "Start the Kerrighed cluster on its nodes."),
    "exec": ("provision.cli.operate:execute", "Run a command on nodes, equal output shown once."),
    "rollback": ("provision.cli.rollback:rollback", "Take back what was done to nodes."),
    "diskless": ("provision.cli.diskless:diskless", "Boot nodes over the network, root on NFS."),
    "status": ("provision.cli.status:status", "Show what each node runs."),
    "report": ("provision.cli.report:report", "Write one HTML page about a cluster."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or None if there is no such name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return what may follow, without importing a command for its help."""
        from click.shell_completion import CompletionItem

        fitting = [
            CompletionItem(name, help=text)
            for name, (_, text) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        # The options; what a group says itself imports every command.
        return fitting + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 findings or failed nodes, 2 bad input, 3 something is missing.",
)
@click.version_option(__version__, prog_name="krg-provision")
@click.option("--debug", is_flag=True, help="Show a traceback for every error.")
def cli(debug: bool) -> None:
    """Take Linux and Kerrighed sources to a running cluster.

    \b
    Examples:
      krg-provision doctor
      krg-provision build-kernel
      krg-provision lab up --nodes 3
      krg-provision deploy --nodes cluster.toml --check
    """


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _open_stdout() -> None:
    """Give a closed standard output (>&-) a place: click before 8.1.4 would write to nothing."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


def _drop_stdout() -> None:
    """Write what can still be written to standard output; the rest goes nowhere.

    Otherwise Python would try again when it ends, and exit with 120.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with the codes named in ``provision.errors``."""
    # A service manager stops programs with SIGTERM: clean up as for Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    _open_stdout()
    args = sys.argv[1:] if argv is None else argv
    debug = "--debug" in args
    try:
        status = cli.main(args=args, prog_name="krg-provision", standalone_mode=False)
        # Not standalone, click hands back the status of an Exit instead of raising it.
        if isinstance(status, int):
            sys.exit(status)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("krg-provision: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (``| head``): not an error of ours.
        _drop_stdout()
        sys.exit(0)
    except KrgError as error:
        if debug:
            raise
        click.echo(f"krg-provision: error: {error.message}", err=True)
        if error.hint:
            click.echo(f"  {error.hint}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"krg-provision: error: {where}{error.strerror or error}", err=True)
        _drop_stdout()
        sys.exit(3)
    except Exception as error:
        # A bug of ours: the traceback is for those who ask for it.
        if debug:
            raise
        click.echo(f"krg-provision: bug: {type(error).__name__}: {error}", err=True)
        click.echo("  please report it, with what --debug prints after krg-provision", err=True)
        sys.exit(1)
    finally:
        # The process ends: Python need not search a kernel tree's objects for garbage.
        gc.freeze()
