# SPDX-License-Identifier: GPL-2.0-or-later
"""Options that several commands have: one name, one meaning, one text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from provision.cli import complete

_Command = TypeVar("_Command", bound=Callable[..., object])

FORKS = click.option(
    "--forks", default=16, show_default=True, type=click.IntRange(1, 256), help="Nodes at a time."
)
FORM = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="For people or for programs.",
)
CHECK = click.option("--check", is_flag=True, help="Show what would change; change nothing.")
VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Name every file.")
BREAK_LOCK = click.option(
    "--break-lock",
    is_flag=True,
    help="Take the lock of somebody else, whose work on the cluster is known to have ended.",
)
WHOLE_CLUSTER = click.option(
    "--whole-cluster",
    is_flag=True,
    help="With --reboot: restart all nodes at once; a running Kerrighed cluster is one machine.",
)
CLUSTER = click.option(
    "--cluster",
    "cluster_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The cluster file in use.  [default: $KRG_CLUSTER, ./cluster.toml, "
    "/etc/krg-provision/cluster.toml]",
    shell_complete=complete.files,
)


def artifacts(what: str) -> Callable[[_Command], _Command]:
    """Return the option that names a build; ``what`` is its help."""
    return click.option(
        "--artifacts",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help=what,
        shell_complete=complete.builds,
    )


def seconds(
    name: str, default: float, what: str, *, least: float = 1, most: float = 86400
) -> Callable[[_Command], _Command]:
    """Return an option that takes a number of seconds; ``what`` is its help."""
    return click.option(
        name,
        default=default,
        show_default=True,
        type=click.FloatRange(least, most),
        metavar="SECONDS",
        help=what,
    )


# Both are for what only looks.
COMPARED = artifacts(
    "The build to compare with.  [default: the newest that fits the cluster, if any]"
)
SILENT = seconds("--timeout", 30.0, "How long a node may be silent.", most=3600)
