# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision diskless: nodes that boot over the network and have their root on NFS."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli import complete, options

if TYPE_CHECKING:
    from provision.rendered import Step

_PATH = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def diskless() -> None:
    """Boot nodes over the network, with their root on NFS.

    \b
    Examples:
      krg-provision diskless render --nodes cluster.toml --head 192.168.0.1 --output head
    """


@diskless.command()
@click.option(
    "--nodes",
    required=True,
    metavar="NODES",
    help="A cluster.toml whose nodes have a mac, or a node set out of the cluster file in use.",
    shell_complete=complete.nodes,
)
@options.CLUSTER
@options.artifacts(
    "A finished build's directory.  [default: the newest that fits the cluster file]"
)
@click.option(
    "--output",
    "-o",
    type=_PATH,
    required=True,
    metavar="DIR",
    help="Where the files go: a new or empty directory, or one that this command made.",
)
@click.option(
    "--head",
    "head_address",
    required=True,
    metavar="ADDRESS",
    help="The head node's address in the nodes' network; 10.1.0.1/16 where that is no /24.",
)
@click.option(
    "--interface",
    metavar="NAME",
    help="The head node's card in that network.  [default: the one with the address]",
)
@click.option(
    "--root",
    default="/srv/krg-diskless/root",
    show_default=True,
    metavar="PATH",
    help="The nodes' root on the head node; %s in it is the node's name, for a root each.",
)
@click.option(
    "--driver",
    "drivers",
    multiple=True,
    metavar="SYMBOL",
    help="The nodes' network driver, such as E1000: a build without it is refused. Repeatable.",
)
@click.option("--check", is_flag=True, help="Show what would be written, and write nothing.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text",
              help="For people, or for programs.")  # fmt: skip
def render(
    *,
    nodes: str,
    cluster_file: Path | None,
    artifacts: Path | None,
    output: Path,
    head_address: str,
    interface: str | None,
    root: str,
    drivers: tuple[str, ...],
    check: bool,
    form: str,
) -> None:
    """Write what a head node serves: DHCP, TFTP, pxelinux and NFS, as files in a directory.

    A dnsmasq.conf and a service for it, a pxelinux file for each node, the kernel, the exports,
    and what of the build goes into the nodes' root. README.txt there says what to copy where.
    Nothing is installed, and no other directory is written to. Exit code 1: with --check,
    something would change.

    \b
    Examples:
      krg-provision diskless render --nodes cluster.toml --head 192.168.0.1 --output head
      krg-provision diskless render --nodes cluster.toml --head 10.1.0.1/16 --output head --check
      krg-provision diskless render --nodes 'krg[1-8]' --head 10.1.0.1 --root /srv/%s -o head
    """
    from provision import artifacts as builds
    from provision import diskless as steps
    from provision import rendered
    from provision.cluster import select

    cluster = select(nodes, cluster=cluster_file)
    server = steps.head(head_address, interface, root)
    build = builds.load(artifacts) if artifacts else builds.find(cluster.release, cluster.arch)
    config = build.path("config").read_text("utf-8", "replace")
    steps.check_kernel(build, config, drivers)
    wanted = steps.files(cluster, build, server, config)
    changes = rendered.plan(output, "diskless", wanted)
    if not check:
        rendered.write(output, "diskless", wanted, changes)
    if form == "json":
        rows = [{"change": c.verb, "path": c.path[1:], "by_hand": c.by_hand} for c in changes]
        value = {"directory": str(output), "written": not check, "changes": rows}
        click.echo(json.dumps(value, indent=1))
    else:
        _show(output, changes, check)
    if check and changes:
        sys.exit(1)


def _show(output: Path, changes: Sequence[Step], check: bool) -> None:
    """Print what is written; the many files of the root by number."""
    inside = [c for c in changes if c.path.startswith("/root/") and c.verb != "remove"]
    for change in changes:
        if change not in inside or change.by_hand:
            note = " (was changed by hand)" if change.by_hand else ""
            click.echo(f"  {change.verb:7} {change.path[1:]}{note}")
    if inside:
        size = sum(c.wanted.size for c in inside if c.wanted is not None) / (1 << 20)
        verb = "add" if all(c.verb == "add" for c in inside) else "change"
        click.echo(f"  {verb:7} root/: {len(inside)} files, {size:.1f} MiB")
    if not changes:
        click.echo(f"up to date: {output}")
    elif check:
        click.echo(f"{output}: nothing was written (--check)")
    else:
        click.echo(f"{output}: written; {output}/README.txt says what to copy where")
