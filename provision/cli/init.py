# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision init: a cluster.toml from a few questions, or from a list of hosts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from provision.cli import complete

if TYPE_CHECKING:
    from provision.cluster import Cluster, Node


@click.command()
@click.argument(
    "file", type=click.Path(path_type=Path), default="cluster.toml", shell_complete=complete.files
)
@click.option(
    "--hosts",
    metavar="LIST",
    help="A node set such as krg[01-64], or a file: a host, USER@HOST:PORT, a node set or "
    "ADDRESS NAME on each line.",
    shell_complete=complete.files,
)
@click.option(
    "--from",
    "origin",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Take session, nbmin and nodes from a kerrighed_nodes file.",
)
@click.option(
    "--ask-nodes", is_flag=True, help="Log in and ask each for host name, interface and address."
)
@click.option("--session", type=int, metavar="N", help="The session id.  [default: 1]")
@click.option("--interface", metavar="NAME", help="The cluster's network card.  [default: eth0]")
@click.option("--user", metavar="USER", help="Who logs in.  [default: ~/.ssh/config's, else root]")
@click.option("--jump", metavar="HOSTS", help="Jump hosts: USER@HOST:PORT, with commas between.")
@click.option(
    "--key", type=click.Path(path_type=Path), metavar="FILE", help="The private key to log in with."
)
@click.option(
    "--known-hosts", type=click.Path(path_type=Path), metavar="FILE", help="A file of host keys."
)
@click.option("--ask-sudo", is_flag=True, help="sudo wants a password there.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option(
    "--forks", default=16, show_default=True, type=click.IntRange(1, 256), help="Nodes at a time."
)
def init(
    *,
    file: Path,
    hosts: str | None,
    origin: Path | None,
    ask_nodes: bool,
    force: bool,
    forks: int,
    **given: Any,
) -> None:
    """Write the cluster file FILE: a few questions, or --hosts or --from, which ask nothing.

    The file is checked as every command checks it, and written as a whole or not at all.

    \b
    Examples:
      krg-provision init
      krg-provision init --hosts 'krg[01-64]' --interface eth1
      krg-provision init --hosts 192.168.0.[103-105] --ask-nodes
      krg-provision init --from /etc/kerrighed_nodes room2.toml
    """
    from provision import new_cluster
    from provision.atomic import write_text
    from provision.errors import InputError
    from provision.plan import fold, plain

    if file.suffix != ".toml":
        raise InputError(f"{file}: the name of a cluster file ends in .toml")
    if file.exists() and not force:
        raise InputError(f"{file} is there already", hint="--force writes over it")
    if not file.parent.is_dir():
        raise InputError(f"{file.parent}: no such directory")
    if hosts is not None and origin is not None:
        raise InputError("--hosts and --from are two ways to say the same: give one")
    cluster = _start(hosts, origin)
    asks = cluster is None
    if cluster is None:
        cluster, ask_nodes, given = _questions(ask_nodes, given)
    nodes = [_with_options(node, given, file) for node in cluster.nodes]
    if ask_nodes:
        from provision.console import say
        from provision.ssh import check_access

        _check(file, replace(cluster, nodes=tuple(nodes)))
        check_access(nodes)
        say(f"asking {len(nodes)} hosts who they are")
        debug = bool(click.get_current_context().find_root().params.get("debug"))
        keep = origin is not None or bool(given.get("interface"))
        nodes = new_cluster.ask(nodes, forks, keep_interface=keep, debug=debug)
        if origin is None:
            nodes = new_cluster.numbered(nodes)
    session = given.get("session")
    cluster = replace(
        cluster,
        nodes=tuple(nodes),
        session=cluster.session if session is None else session,
    )
    if asks:
        cluster = _last_questions(cluster, session)
    text = new_cluster.write(file, cluster)
    write_text(file.resolve() if file.is_symlink() else file, text)
    names = plain(fold(node.name for node in cluster.nodes))
    click.echo(f"wrote {file}: session {cluster.session}, {names}")
    if any(new_cluster.node_is_address(node.name) for node in cluster.nodes):
        click.echo(
            "  nodes are named by their addresses, and the kernel knows them by /etc/hostname: "
            "init --ask-nodes asks for it"
        )
    click.echo(f"next: krg-provision status --nodes {file}")
    click.echo(f"      krg-provision deploy --nodes {file} --check")


def _start(hosts: str | None, origin: Path | None) -> Cluster | None:
    """Return what the options say of the cluster; None if people are to be asked."""
    from provision import new_cluster
    from provision.cluster import Cluster, read_cluster
    from provision.errors import InputError

    if origin is not None:
        return read_cluster(origin)
    if hosts is not None:
        nodes = new_cluster.read_hosts(hosts)
        return Cluster(1, len(nodes), tuple(nodes))
    if not sys.stdin.isatty():
        raise InputError(
            "there is no terminal to ask questions on", hint="name the hosts: --hosts 'krg[01-64]'"
        )
    return None


def _check(file: Path, cluster: Cluster) -> None:
    """Refuse values that break rules before anybody logs in anywhere with them.

    The names are still to be asked for: they are judged afterwards.
    """
    from provision import new_cluster

    nodes = (replace(n, name=f"node{at}", id=at) for at, n in enumerate(cluster.nodes, 1))
    new_cluster.write(file, replace(cluster, nodes=tuple(nodes)))


def _with_options(node: Node, given: dict[str, Any], file: Path) -> Node:
    from provision.cluster import parse_login
    from provision.errors import InputError

    jump = node.jump
    if given.get("jump"):
        logins = [parse_login(word) for word in given["jump"].split(",")]
        if None in logins:
            raise InputError(f"--jump {given['jump']!r} is not USER@HOST:PORT")
        jump = tuple(login for login in logins if login is not None)

    def place(key: str) -> Path | None:
        # The file's own directory is what relative names in it start from.
        path: Path | None = given.get(key)
        if path is None or path.parent.resolve() == file.parent.resolve():
            return path
        return path.expanduser().absolute()

    return replace(
        node,
        user=node.user or given.get("user"),
        interface=given.get("interface") or node.interface,
        jump=jump,
        key=place("key"),
        known_hosts=place("known_hosts"),
        sudo="ask" if given.get("ask_sudo") else node.sudo,
    )


# --- questions ----------------------------------------------------------------------------


def _prompt(text: str, default: Any, read: Callable[[str], Any]) -> Any:
    """Ask until the answer can be read."""
    from provision.errors import InputError

    def value(answer: str) -> Any:
        try:
            return read(answer)
        except InputError as error:
            raise click.UsageError(error.message) from error

    return click.prompt(text, default=default, value_proc=value, err=True)


def _questions(ask_nodes: bool, given: dict[str, Any]) -> tuple[Cluster, bool, dict[str, Any]]:
    """Ask for the hosts and how to log in to them."""
    from provision import new_cluster
    from provision.cluster import Cluster
    from provision.cluster_rules import is_interface, is_user
    from provision.errors import InputError

    def good(test: Callable[[str], bool], what: str) -> Callable[[str], str]:
        def read(answer: str) -> str:
            if not test(answer):
                raise InputError(f"{answer!r} is not {what}")
            return answer

        return read

    nodes = _prompt("Hosts, such as krg[1-3], or a file that lists them", None,
                    new_cluster.read_hosts)  # fmt: skip
    answers = dict(given)
    if not given.get("user"):
        user = _prompt("Log in as", "root", good(is_user, "a user name"))
        # Left out it is root, unless ~/.ssh/config says otherwise.
        answers["user"] = None if user == "root" else user
        if user != "root" and not given.get("ask_sudo"):
            answers["ask_sudo"] = click.confirm("Does sudo ask for a password there?", err=True)
    if not ask_nodes:
        ask_nodes = click.confirm(
            "Log in now and ask each for its name, interface and address?", default=True, err=True
        )
    if not ask_nodes and not given.get("interface"):
        answers["interface"] = _prompt(
            "Network card of the cluster", "eth0", good(is_interface, "an interface's name")
        )
    return Cluster(1, len(nodes), tuple(nodes)), ask_nodes, answers


def _last_questions(cluster: Cluster, session: int | None) -> Cluster:
    from provision.cluster_rules import MAX_SESSION
    from provision.errors import InputError

    def number(least: int, most: int) -> Callable[[str], int]:
        def read(answer: Any) -> int:
            text = str(answer)
            if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
                raise InputError(f"{text!r} is not a number from {least} to {most}")
            return int(text)

        return read

    count = len(cluster.nodes)
    if session is None:
        session = _prompt(
            "Session; another cluster on the same network has another", 1, number(0, MAX_SESSION)
        )
    nbmin = _prompt("It starts by itself once so many nodes are there", count, number(1, count))
    return replace(cluster, session=session, nbmin=nbmin)
