# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision status: what every node runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli import options
from provision.cli.nodes import nodes_options

if TYPE_CHECKING:
    from provision.artifacts import Artifacts
    from provision.cluster import Cluster


@click.command()
@nodes_options
@options.COMPARED
@options.FORKS
@options.SILENT
@options.FORM
def status(
    *, cluster: Cluster, artifacts: Path | None, forks: int, timeout: float, form: str
) -> None:
    """Show each node's kernel, ids, cluster and how its files compare with the build.

    Exit code 1: a node cannot be reached, or runs with another id or session than the
    file says.

    \b
    Examples:
      krg-provision status --nodes cluster.toml
      krg-provision status --nodes 'krg[1-3]' --cluster ~/clusters/room1.toml
      krg-provision status --nodes cluster.toml --format json
    """
    from provision.plan import fold, plain
    from provision.ssh import check_access
    from provision.status import as_json, ask, rows

    build = build_or_none(cluster, artifacts)
    check_access(cluster.selected)
    debug = bool(click.get_current_context().find_root().params.get("debug"))
    found = ask(cluster, build, forks, timeout, debug=debug)
    if form == "json":
        click.echo(json.dumps({"nodes": [as_json(one) for one in found]}, indent=1))
    else:
        table = [tuple(map(plain, row)) for row in rows(found)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            click.echo("  ".join(cells).rstrip())
        for one in found:
            for text in (*one.findings, *([one.error] if one.error else [])):
                click.echo(f"{fold([one.node.name])}: {plain(text)}")
            if one.hint:
                click.echo(f"  {plain(one.hint)}")
    if any(one.error or one.findings for one in found):
        sys.exit(1)


def build_or_none(cluster: Cluster, artifacts: Path | None) -> Artifacts | None:
    """Return the build to compare with; without one the rest of the table is still true."""
    from provision import artifacts as builds
    from provision.errors import InputError

    if artifacts is not None:
        return builds.load(artifacts)
    try:
        return builds.find(cluster.release, cluster.arch)
    except InputError:
        return None
