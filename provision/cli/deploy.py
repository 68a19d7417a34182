# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision deploy: a build onto nodes over SSH."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli import options
from provision.cli.nodes import nodes_options
from provision.cli.operate import show_evidence
from provision.node_rules import RULES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provision.carry_out import Way
    from provision.cluster import Cluster, Node
    from provision.deploy import Outcome, Target
    from provision.rollout import Pace


@click.command()
@nodes_options
@options.artifacts("The build to install.  [default: the newest that fits the cluster]")
@click.option(
    "--packages",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Install the build's Debian packages in DIR, made by the command package, on nodes that "
    "have dpkg.  [default: files]",
)
@options.CHECK
@click.option("--bootloader/--no-bootloader", default=True, help="Write our entry for GRUB or not.")
@click.option(
    "--force",
    multiple=True,
    type=click.Choice(list(RULES)),
    metavar="RULE",
    help="Deploy although this rule refuses the node; the refusal names it. Can be repeated.",
)
@click.option(
    "--reboot",
    is_flag=True,
    help="Restart every node once into the build; make it the default when it proved itself.",
)
@click.option(
    "--canary",
    type=click.IntRange(0, 1024),
    metavar="N",
    help="So many nodes go first; when one fails nothing else is begun.  "
    "[default: 1 with --reboot, else 0]",
)
@click.option(
    "--wave",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Nodes in a wave after the canary.  [default: 1 with --reboot, else all]",
)
@click.option(
    "--max-down",
    type=click.IntRange(0, 1024),
    metavar="N",
    help="Begin nothing more once more than N nodes have failed, unreachable ones included.  "
    "[default: 0 with --reboot, else no limit]",
)
@options.WHOLE_CLUSTER
@options.seconds(
    "--boot-timeout",
    300.0,
    "How long a node may take to come back; one that nobody reaches restarts itself later.",
)
@options.seconds(
    "--prove-timeout",
    90.0,
    "How long a node that is up may take to load the module.",
    least=0,
)
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Only the nodes that the last deployment left failed or not done.",
)
@options.BREAK_LOCK
@options.FORKS
@click.option(
    "--diff/--no-diff",
    "diffs",
    default=True,
    help="Show changed settings as diffs, or by their names only.",
)
@options.VERBOSE
@options.FORM
def deploy(
    *,
    cluster: Cluster,
    artifacts: Path | None,
    packages: Path | None,
    check: bool,
    bootloader: bool,
    force: tuple[str, ...],
    reboot: bool,
    canary: int | None,
    wave: int | None,
    max_down: int | None,
    whole_cluster: bool,
    boot_timeout: float,
    prove_timeout: float,
    retry_failed: bool,
    break_lock: bool,
    forks: int,
    diffs: bool,
    verbose: bool,
    form: str,
) -> None:
    """Install a build on every node: kernel, modules, tools, settings, boot entry.

    The plan is printed first, as diffs, and then carried out as printed. A node that could not
    boot the build is refused. The default boot entry stays as it is; with --reboot every node
    boots the build once, and only when it has proved itself the build becomes the default,
    otherwise the node goes back by itself. Host keys must be known. Exit code 1: a node failed,
    or, with --check, something would change.

    \b
    Examples:
      krg-provision deploy --nodes cluster.toml --check
      krg-provision deploy --nodes cluster.toml
      krg-provision deploy --nodes 'krg[01-64]' --exclude 'krg[02,05]'
      krg-provision deploy --nodes cluster.toml --reboot --wave 4 --max-down 1
      krg-provision deploy --nodes cluster.toml --reboot --retry-failed
      krg-provision deploy --nodes /etc/kerrighed_nodes --artifacts ./build --format json
    """
    from provision import artifacts as builds
    from provision import events, lock
    from provision.boot import Limits
    from provision.carry_out import Way, carry_out
    from provision.cli.live import Watch
    from provision.console import say
    from provision.deploy import observe, target
    from provision.fleet import fleet
    from provision.unchanged import memory

    build = builds.load(artifacts) if artifacts else builds.find(cluster.release, cluster.arch)
    wanted = target(
        cluster,
        build,
        bootloader=bootloader,
        force=force,
        reboot=reboot,
        whole_cluster=whole_cluster,
        packages=packages,
        limits=Limits(boot_timeout, prove_timeout),
    )
    way = Way(_pace(reboot, canary, wave, max_down, whole_cluster), wanted.limits)
    only = _only(cluster, retry_failed, whole_cluster)
    debug = bool(click.get_current_context().find_root().params.get("debug"))
    with contextlib.ExitStack() as stack:
        place = None if check else stack.enter_context(events.locked(cluster))
        among = stack.enter_context(fleet(cluster.selected, forks, debug=debug))
        say(f"asking {len(only)} nodes what they have")
        watch = Watch([node.name for node in only])
        with watch.shown():
            outcomes = observe(wanted, among, only, memory(wanted), watch.tell)
        if form == "text":
            _show(wanted, list(outcomes.values()), verbose, diffs, way)
        if place is not None and any(o.state == "would change" for o in outcomes.values()):
            journal = stack.enter_context(events.journal(place))
            journal.write("begun", who=events.who(), build=build.build_id, reboot=reboot)
            fine = [o.node for o in outcomes.values() if not o.bad]
            stack.enter_context(lock.held(fine, among, say, break_lock=break_lock))
            with watch.shown(keep=True):
                outcomes = carry_out(wanted, among, outcomes, way, journal, watch.tell)
    _report(wanted, list(outcomes.values()), form, check)
    changes = check and any(o.state == "would change" for o in outcomes.values())
    if changes or any(o.bad for o in outcomes.values()):
        sys.exit(1)


def _pace(
    reboot: bool, canary: int | None, wave: int | None, max_down: int | None, whole: bool
) -> Pace:
    """Return the pace that the options ask for; one node at a time where nodes restart."""
    from provision.errors import InputError
    from provision.rollout import Pace

    if whole and not reboot:
        raise InputError("--whole-cluster is about restarting: give it with --reboot")
    if whole:
        if canary or wave:
            raise InputError("--whole-cluster restarts all nodes at once: no --canary, no --wave")
        return Pace(0, None, max_down or 0)
    if reboot:
        return Pace(1 if canary is None else canary, wave or 1, 0 if max_down is None else max_down)
    return Pace(canary or 0, wave, max_down)


def _only(cluster: Cluster, retry_failed: bool, whole_cluster: bool) -> Sequence[Node]:
    """Return the nodes to work on."""
    from provision import events
    from provision.errors import InputError

    if whole_cluster and len(cluster.selected) != len(cluster.nodes):
        raise InputError("--whole-cluster restarts all nodes: select all of them")
    if not retry_failed:
        return cluster.selected
    names = events.to_repeat(cluster)
    nodes = [node for node in cluster.selected if node.name in names]
    if not nodes:
        raise InputError(
            "--retry-failed: the last deployment from this machine left no node failed",
            hint="leave it out to look at all nodes",
        )
    return nodes


def _show(
    target: Target, outcomes: Sequence[Outcome], verbose: bool, diffs: bool, way: Way
) -> None:
    """Print the plans, before anything is changed."""
    from provision.plan import fold, folded, show, size
    from provision.rollout import waves

    build = target.build
    click.echo(f"build {build.release} {build.arch} {build.kernel_release} ({build.directory})")
    plans = [o.plan for o in outcomes if o.plan is not None and not o.bad]
    for names, text in show((p for p in plans if not p.empty), verbose=verbose, diffs=diffs):
        click.echo(f"\n{names}:")
        for line in text.split("\n"):
            click.echo(f"  {_coloured(line)}")
    boots = [(o.node.name, o.boot.texts) for o in outcomes if o.boot is not None]
    for names, text in folded(boots):
        if text.startswith("--- ") and not diffs:
            continue
        click.echo(f"\n{names}:")
        for line in text.split("\n"):
            click.echo(f"  {_coloured(line)}")
    sizes = [plan.upload for plan in plans if plan.upload]
    if sizes:
        click.echo(f"\nto send: {size(sum(sizes))} to {len(sizes)} nodes, before compression")
    order = waves([o.node.name for o in outcomes if o.state == "would change"], way.pace)
    if len(order) > 1:
        click.echo(f"\norder: {', then '.join(fold(wave) for wave in order)}")
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
    for outcome in outcomes:
        if outcome.result is not None and outcome.result.log:
            click.echo(f"{outcome.node.name}: the end of its log:")
            for line in outcome.result.log:
                click.echo(f"  | {plain(line)}")
    if items := [i for o in outcomes if o.result is not None for i in o.result.evidence]:
        show_evidence(items)
    click.echo(summary(outcomes))
