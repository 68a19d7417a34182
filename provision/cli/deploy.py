# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision deploy: a build onto nodes over SSH."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli import complete
from provision.cli.nodes import nodes_options
from provision.node_rules import RULES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provision.cluster import Cluster
    from provision.deploy import Outcome, Target


@click.command()
@nodes_options
@click.option(
    "--artifacts",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The build to install.  [default: the newest that fits the cluster]",
    shell_complete=complete.builds,
)
@click.option("--check", is_flag=True, help="Show what would change; change nothing.")
@click.option(
    "--bootloader/--no-bootloader", default=True, help="Write the GRUB Legacy entry or not."
)
@click.option(
    "--force",
    multiple=True,
    type=click.Choice(list(RULES)),
    metavar="RULE",
    help="Deploy although this rule refuses the node; the refusal names it. Can be repeated.",
)
@click.option(
    "--forks", default=16, show_default=True, type=click.IntRange(1, 256), help="Nodes at a time."
)
@click.option("-v", "--verbose", is_flag=True, help="Name every file.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="For people or for programs.",
)
def deploy(
    *,
    cluster: Cluster,
    artifacts: Path | None,
    check: bool,
    bootloader: bool,
    force: tuple[str, ...],
    forks: int,
    verbose: bool,
    form: str,
) -> None:
    """Install a build on every node: kernel, modules, tools, settings, boot entry.

    The plan is printed first, as diffs, and then carried out as printed. The default boot
    entry stays as it is. A node that could not boot the build is refused. Host keys must be
    known. Exit code 1: a node failed, or, with --check, something would change.

    \b
    Examples:
      krg-provision deploy --nodes cluster.toml --check
      krg-provision deploy --nodes cluster.toml
      krg-provision deploy --nodes 'krg[01-64]' --exclude 'krg[02,05]'
      krg-provision deploy --nodes /etc/kerrighed_nodes --artifacts ./build --format json
    """
    from provision import artifacts as builds
    from provision.console import say
    from provision.deploy import apply, observe, target
    from provision.fleet import fleet

    build = builds.load(artifacts) if artifacts else builds.find(cluster.release, cluster.arch)
    wanted = target(cluster, build, bootloader=bootloader, force=force)
    debug = bool(click.get_current_context().find_root().params.get("debug"))
    with fleet(cluster.selected, forks, debug=debug) as among:
        say(f"asking {len(cluster.selected)} nodes what they have")
        outcomes = observe(wanted, among)
        if form == "text":
            _show(wanted, list(outcomes.values()), verbose)
        if not check:
            total = sum(o.plan.upload for o in outcomes.values() if o.plan and not o.bad)
            with _progress(total) as on_sent:
                outcomes = apply(wanted, among, outcomes, say, on_sent)
    _report(wanted, list(outcomes.values()), form, check)
    changes = check and any(o.state == "would change" for o in outcomes.values())
    if changes or any(o.bad for o in outcomes.values()):
        sys.exit(1)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show how much of ``total`` bytes was sent: a bar on a terminal, nothing in a pipe."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from provision.console import err

    columns = ("sending", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err(), disable=not err().is_terminal or not total) as bar:
        task = bar.add_task("sending", total=total)
        yield lambda count: bar.advance(task, count)


def _show(target: Target, outcomes: Sequence[Outcome], verbose: bool) -> None:
    """Print the plans, before anything is changed."""
    from provision.plan import fold, show

    build = target.build
    click.echo(f"build {build.release} {build.arch} {build.kernel_release} ({build.directory})")
    plans = [o.plan for o in outcomes if o.plan is not None and not o.bad]
    for names, text in show((p for p in plans if not p.empty), verbose=verbose):
        click.echo(f"\n{names}:")
        for line in text.split("\n"):
            click.echo(f"  {_coloured(line)}")
    same = [o.node.name for o in outcomes if o.state == "unchanged"]
    if same:
        click.echo(f"\n{fold(same)}: nothing to change")
    # Shown before the long part begins, even into a pipe.
    sys.stdout.flush()


def _coloured(line: str) -> str:
    import os

    if os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return line
    colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
    return click.style(line, fg=colour) if colour else line


def _report(target: Target, outcomes: Sequence[Outcome], form: str, check: bool) -> None:
    from provision.deploy import as_json, summary
    from provision.plan import fold, plain

    if form == "json":
        build = target.build
        values = {
            "build": {
                "directory": str(build.directory),
                "release": build.release,
                "arch": build.arch,
                "kernel_release": build.kernel_release,
                "build_id": build.build_id,
            },
            "check": check,
            "nodes": [as_json(outcome) for outcome in outcomes],
        }
        click.echo(json.dumps(values, indent=1))
        return
    click.echo()
    groups: dict[tuple[str, str, str | None], list[str]] = {}
    for outcome in outcomes:
        if outcome.bad:
            key = (outcome.state, outcome.error or "", outcome.hint)
            groups.setdefault(key, []).append(outcome.node.name)
    for (state, error, hint), names in groups.items():
        click.echo(f"{fold(names)}: {state}: {plain(error)}")
        if hint:
            click.echo(f"  {plain(hint)}")
    click.echo(summary(outcomes))
