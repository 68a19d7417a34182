# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision verify, start and exec: what is done with nodes that are deployed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli import options
from provision.cli.nodes import nodes_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provision.artifacts import Artifacts
    from provision.cluster import Cluster
    from provision.evidence import Evidence

_artifacts = options.artifacts(
    "The build that shall run.  [default: the newest that fits the cluster]"
)


def _debug() -> bool:
    return bool(click.get_current_context().find_root().params.get("debug"))


def _build(cluster: Cluster, artifacts: Path | None) -> Artifacts:
    """Return the build that shall run."""
    from provision import artifacts as builds

    return builds.load(artifacts) if artifacts else builds.find(cluster.release, cluster.arch)


def show_evidence(items: Sequence[Evidence]) -> None:
    """Print evidence as a table."""
    from provision.evidence import rows
    from provision.plan import plain

    table = [tuple(map(plain, row)) for row in rows(items)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _report(items: Sequence[Evidence], form: str) -> None:
    from provision.evidence import as_json

    if form == "json":
        click.echo(json.dumps({"evidence": as_json(items)}, indent=1))
    elif items:
        show_evidence(items)
    if not all(item.ok for item in items):
        sys.exit(1)


@click.command()
@nodes_options
@_artifacts
@options.seconds("--timeout", 20.0, "How long a node may be silent.")
@options.FORKS
@options.FORM
def verify(
    *, cluster: Cluster, artifacts: Path | None, timeout: float, forks: int, form: str
) -> None:
    """Prove that every node runs the build: kernel, ids, module, and the cluster if it runs.

    Reads only what cannot hang when a node of a running cluster was lost. Exit code 1:
    something is not as it should be.

    \b
    Examples:
      krg-provision verify --nodes cluster.toml
      krg-provision verify --nodes 'krg[1-3]' --format json
    """
    from provision.fleet import fleet
    from provision.operate import ask, prove
    from provision.ssh import check_access

    build = _build(cluster, artifacts)
    check_access(cluster.selected)
    with fleet(cluster.selected, forks, debug=_debug()) as among:
        answers = ask(cluster.selected, among, timeout)
    _report(prove(cluster, build.kernel_release, build.module, answers), form)


@click.command()
@nodes_options
@_artifacts
@options.seconds(
    "--timeout", 120.0, "How long to wait for all nodes to be there, and for the cluster to run."
)
@options.FORKS
@options.FORM
def start(
    *, cluster: Cluster, artifacts: Path | None, timeout: float, forks: int, form: str
) -> None:
    """Start the Kerrighed cluster and wait until it runs on all nodes.

    All nodes have to run the build with the module loaded; otherwise nothing is started. A
    cluster that runs already is left alone. Exit code 1: it does not run on all nodes.

    \b
    Examples:
      krg-provision start --nodes cluster.toml
      krg-provision start --nodes cluster.toml --timeout 300
    """
    from provision import events, operate
    from provision.errors import InputError
    from provision.fleet import fleet
    from provision.ssh import check_access

    if len(cluster.selected) != len(cluster.nodes):
        raise InputError("a cluster starts as a whole: select all of its nodes")
    build = _build(cluster, artifacts)
    check_access(cluster.nodes)
    with events.locked(cluster), fleet(cluster.nodes, forks, debug=_debug()) as among:
        found = list(operate.start(cluster, among, build.kernel_release, build.module, timeout))
    _report(found, form)


@click.command("exec", context_settings={"ignore_unknown_options": True})
@nodes_options
@options.seconds("--timeout", 60.0, "How long the command may take on a node.")
@options.FORKS
@options.FORM
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(
    *, cluster: Cluster, timeout: float, forks: int, form: str, command: tuple[str, ...]
) -> None:
    """Run a command as root on every node; the same output is shown once.

    One word is shell text, several are a command with its arguments. On a cluster that has lost
    a node, ps and most of /proc hang: --timeout bounds it here, not there. Exit code 1: it
    failed on a node, or a node could not be reached.

    \b
    Examples:
      krg-provision exec --nodes cluster.toml uptime
      krg-provision exec --nodes 'krg[1-3]' cat /proc/cmdline
      krg-provision exec --nodes cluster.toml 'grep TIPC /var/log/kern.log | tail'
    """
    from provision.errors import KrgError
    from provision.fleet import fleet
    from provision.operate import command_line, folded, run
    from provision.plan import fold, plain
    from provision.ssh import check_access

    check_access(cluster.selected)
    with fleet(cluster.selected, forks, debug=_debug()) as among:
        answers = run(cluster.selected, among, command_line(command), timeout)
    failed = any(isinstance(a, KrgError) or a.status != 0 for a in answers.values())
    if form == "json":
        values = [
            {"name": name, "error": answer.message}
            if isinstance(answer, KrgError)
            else {"name": name, "status": answer.status, "out": answer.out, "err": answer.err}
            for name, answer in answers.items()
        ]
        click.echo(json.dumps({"nodes": values}, indent=1))
    else:
        for names, answer in folded(answers):
            if isinstance(answer, KrgError):
                click.echo(f"{fold(names)}: failed: {plain(answer.message)}")
                continue
            state = "" if answer.status == 0 else f" status {answer.status}"
            if answer.status < 0:
                state = f" did not end within {timeout:g} s"
            click.echo(f"{fold(names)}:{state}")
            for line in (answer.out + answer.err).splitlines():
                click.echo(f"  {plain(line)}")
    if failed:
        sys.exit(1)
