# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision report: a cluster on one HTML page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli import options
from provision.cli.nodes import nodes_options
from provision.cli.status import build_or_none

if TYPE_CHECKING:
    from provision.cluster import Cluster

_WRITTEN = "provision.report.written"


@click.command()
@nodes_options
@options.COMPARED
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    metavar="FILE",
    help="The page; that of a second cluster has -2 in its name.",
)
@options.FORKS
@options.SILENT
def report(
    *, cluster: Cluster, artifacts: Path | None, output: Path, forks: int, timeout: float
) -> None:
    """Write one HTML page about a cluster, to look at, to print, to send.

    The cluster drawn with its nodes' states and links, the time line of each boot, the
    configuration against its policy, what was deployed where. The page needs no other file and
    requests nothing. Exit code 1: something is wrong; the page is written all the same.

    \b
    Examples:
      krg-provision report --nodes cluster.toml
      krg-provision report --nodes 'krg[1-3]' -o room.html
    """
    from provision.atomic import write_output
    from provision.console import say
    from provision.report import html
    from provision.report_ask import ask
    from provision.ssh import check_access

    build = build_or_none(cluster, artifacts)
    check_access(cluster.selected)
    context = click.get_current_context()
    written = context.meta[_WRITTEN] = context.meta.get(_WRITTEN, 0) + 1
    if written > 1:
        output = output.with_stem(f"{output.stem}-{written}")
    debug = bool(context.find_root().params.get("debug"))
    say(f"asking {len(cluster.selected)} nodes")
    found = ask(cluster, build, forks, timeout, debug=debug)
    write_output(output, html(found))
    click.echo(f"{output}: {found.summary}")
    if not found.good:
        sys.exit(1)
