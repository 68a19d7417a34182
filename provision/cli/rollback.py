# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision rollback: what was done to nodes, taken back."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from typing import TYPE_CHECKING

import click

from provision.cli import options
from provision.cli.nodes import nodes_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provision.cluster import Cluster
    from provision.deploy import Outcome


def _date(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Accept a date as --list prints it, or the beginning of one: 20261125, 20261125T14."""
    if value is not None and not re.fullmatch(
        r"[0-9]{4}(?:[0-9]{2}){0,2}(?:[0-9]{2}T(?:[0-9]{2}){0,3}Z?)?", value
    ):
        raise click.BadParameter(f"{value!r} is not a date such as 20261125T140000Z or 20261125")
    return value


@click.command()
@nodes_options
@options.CHECK
@click.option(
    "--to",
    "since",
    metavar="DATE",
    callback=_date,
    help="Back to what was there at this date: takes back every run since. "
    "[default: the last run only]",
)
@click.option("--list", "only_list", is_flag=True, help="Show what was done to each node; no more.")
@click.option(
    "--force",
    multiple=True,
    type=click.Choice(["changed"]),
    metavar="RULE",
    help="changed: bring back the former file although somebody changed it since.",
)
@click.option(
    "--reboot",
    is_flag=True,
    help="Restart a node that runs the kernel that is to go into its former default first.",
)
@options.WHOLE_CLUSTER
@options.seconds(
    "--boot-timeout",
    300.0,
    "How long a node may take to come back.",
)
@options.BREAK_LOCK
@options.FORKS
@options.VERBOSE
@options.FORM
def rollback(
    *,
    cluster: Cluster,
    check: bool,
    since: str | None,
    only_list: bool,
    force: tuple[str, ...],
    reboot: bool,
    whole_cluster: bool,
    boot_timeout: float,
    break_lock: bool,
    forks: int,
    verbose: bool,
    form: str,
) -> None:
    """Bring nodes back to what they were before the last deploy, byte for byte.

    Files come from the copies that each run keeps on its node; what it added is removed. The
    plan is printed first, and carried out as printed. Refused: files that somebody changed
    since, and removing the kernel that runs, unless --reboot may restart the node. Exit code 1:
    a node failed, or, with --check, something would change.

    \b
    Examples:
      krg-provision rollback --nodes cluster.toml --check
      krg-provision rollback --nodes 'krg[1-3]' --list
      krg-provision rollback --nodes cluster.toml --to 20261125T140000Z
    """
    from provision import events, lock
    from provision.boot import Limits
    from provision.cli.live import Watch
    from provision.console import say
    from provision.errors import InputError
    from provision.fleet import fleet
    from provision.rollback import Wish, carry_back, observe
    from provision.ssh import check_access

    check_access(cluster.selected)
    debug = bool(click.get_current_context().find_root().params.get("debug"))
    wish = Wish(since, frozenset(force), reboot, whole_cluster)
    if whole_cluster and (not reboot or cluster.selected != cluster.nodes):
        raise InputError("--whole-cluster needs --reboot, and all nodes of the cluster selected")
    with contextlib.ExitStack() as stack:
        if not check and not only_list:
            stack.enter_context(events.locked(cluster))
        among = stack.enter_context(fleet(cluster.selected, forks, debug=debug))
        say(f"asking {len(cluster.selected)} nodes what was done to them")
        watch = Watch([node.name for node in cluster.selected])
        with watch.shown():
            outcomes = observe(cluster.selected, among, wish, watch.tell)
        if only_list:
            _list(list(outcomes.values()), form)
            sys.exit(1 if any(o.facts is None for o in outcomes.values()) else 0)
        if form == "text":
            _show(list(outcomes.values()), verbose, whole_cluster)
        if not check and any(o.state == "would change" for o in outcomes.values()):
            fine = [o.node for o in outcomes.values() if not o.bad]
            stack.enter_context(lock.held(fine, among, say, break_lock=break_lock))
            with watch.shown(keep=True):
                limits = Limits(boot=boot_timeout)
                outcomes = carry_back(among, outcomes, wish, limits, watch.tell)
    _report(list(outcomes.values()), form, check)
    changes = check and any(o.state == "would change" for o in outcomes.values())
    if changes or any(o.bad for o in outcomes.values()):
        sys.exit(1)


def _list(outcomes: Sequence[Outcome], form: str) -> None:
    """Print what was done to each node; nodes with the same history together."""
    from provision.journal import listing
    from provision.plan import fold, plain

    if form == "json":
        values = [
            {
                "name": o.node.name,
                "error": o.error if o.facts is None else None,
                "runs": None if o.facts is None else listing(o.facts),
            }
            for o in outcomes
        ]
        click.echo(json.dumps({"nodes": values}, indent=1))
        return
    groups: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.facts is None:
            text = f"  failed: {plain(outcome.error or '')}"
        else:
            rows = [
                f"  {run['date']}  {run['state']:<11}  {run['command']:<8}  {run['build']}".rstrip()
                for run in listing(outcome.facts)
            ]
            text = plain("\n".join(rows) or "  nothing was done").replace("\\x0a", "\n")
        groups.setdefault(text, []).append(outcome.node.name)
    for text, names in groups.items():
        click.echo(f"{fold(names)}:\n{text}")


def _show(outcomes: Sequence[Outcome], verbose: bool, whole: bool) -> None:
    """Print the plans, before anything is changed."""
    from provision.plan import fold, show
    from provision.rollback import leaves

    plans = [o.plan for o in outcomes if o.plan is not None and not o.bad]
    for names, text in show((p for p in plans if not p.empty), verbose=verbose):
        click.echo(f"{names}:")
        for line in text.split("\n"):
            click.echo(f"  {line}")
        click.echo()
    going = [o for o in outcomes if o.state == "would change" and leaves(o)]
    if going:
        names = fold(o.node.name for o in going)
        how = "all at once" if whole else "one node at a time"
        click.echo(f"{names}:\n  restart into the former default entry first, {how}\n")
    same = [o.node.name for o in outcomes if o.state == "unchanged"]
    if same:
        click.echo(f"{fold(same)}: nothing to take back\n")
    sys.stdout.flush()


def _report(outcomes: Sequence[Outcome], form: str, check: bool) -> None:
    from provision.deploy import as_json, summary
    from provision.plan import fold, plain

    if form == "json":
        values = {"check": check, "nodes": [as_json(outcome) for outcome in outcomes]}
        click.echo(json.dumps(values, indent=1))
        return
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
