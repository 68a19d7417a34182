# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of every command that works on nodes: --nodes, --exclude, --cluster."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import click

from provision.cli import complete, options


def nodes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command's function the parameter ``cluster``, with its nodes ``selected``.

    Several --nodes may name several clusters: the function is called for one after the
    other, and the command ends with the largest of their exit codes.
    """

    @click.option(
        "--nodes",
        required=True,
        multiple=True,
        metavar="NODES",
        help="A cluster.toml, a kerrighed_nodes file, lab:NAME, or a node set such as "
        "krg[01-64] out of the cluster file in use. Can be repeated.",
        shell_complete=complete.nodes,
    )
    @click.option(
        "--exclude",
        multiple=True,
        metavar="SET",
        help="Nodes to leave out, such as krg[02,05]. Can be repeated.",
        shell_complete=complete.node_names,
    )
    @options.CLUSTER
    @functools.wraps(command)
    def run(
        *,
        nodes: tuple[str, ...],
        exclude: tuple[str, ...],
        cluster_file: Path | None,
        **others: object,
    ) -> None:
        from provision.cluster import select_all

        codes = [0]
        for cluster in select_all(nodes, exclude, cluster=cluster_file):
            try:
                command(cluster=cluster, **others)
            except SystemExit as ended:
                # Findings of one cluster do not keep the next from its turn.
                codes.append(ended.code if isinstance(ended.code, int) else 1)
        if max(codes):
            sys.exit(max(codes))

    return run
