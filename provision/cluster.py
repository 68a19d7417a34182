# SPDX-License-Identifier: GPL-2.0-or-later
"""The cluster a command works on: its file, and which of its nodes.

A cluster is read from cluster.toml or from a kerrighed_nodes file; nodes are chosen by node
sets such as ``krg[01-64]``. What is in a cluster, and the rules, are in cluster_rules.py.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from provision.cluster_rules import (
    DESCRIBED,
    Cluster,
    Login,
    Node,
    Report,
    check_against_kernel,
    check_node,
    check_session,
    check_wire,
    finish,
    has_autonodeid,
    is_host,
    parse_login,
)
from provision.cluster_toml import read_toml
from provision.errors import InputError

__all__ = [
    "Cluster",
    "Login",
    "Node",
    "check_against_kernel",
    "has_autonodeid",
    "in_use",
    "is_host",
    "parse_login",
    "parse_set",
    "read_cluster",
    "read_nodes_file",
    "read_toml",
    "select",
    "select_all",
]

# Where the cluster file in use is looked for, after --cluster.
VARIABLE = "KRG_CLUSTER"
PLACES = (Path("cluster.toml"), Path("/etc/krg-provision/cluster.toml"))
# A file larger than this is no cluster file: 254 nodes with every key take a tenth of it.
_MAX_BYTES = 1 << 20


def read_cluster(path: Path) -> Cluster:
    """Read a cluster.toml or a kerrighed_nodes file.

    The latter in the kernel's own form, or with blanks around ``=`` and ``:``, blank lines
    and comments, as tutorials print it.

    :raises InputError: it cannot be read, or breaks rules; all of them are in the message.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
        # Some editors begin a file with a mark of its encoding.
        text = raw.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file", hint=f"krg-provision init writes one; {DESCRIBED}"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error
    if len(raw) > _MAX_BYTES:
        raise InputError(f"{path}: not a cluster file: it is larger than 1 MiB")
    return read_toml(path, text) if path.suffix == ".toml" else read_nodes_file(path, text)


# --- kerrighed_nodes ---------------------------------------------------------------------

_SETTING = re.compile(r"(session|nbmin)[ \t]*=[ \t]*(.*)")
# As in the shell: a # inside a word is part of the word.
_COMMENT = re.compile(r"(?:^|(?<=[ \t]))#.*")


def read_nodes_file(path: Path, text: str) -> Cluster:
    """Read the text of a kerrighed_nodes file; see ``read_cluster``."""
    report = Report(path)
    settings: dict[str, int] = {}
    nodes: list[Node] = []
    lines: dict[int, int] = {}
    for number, raw in enumerate(text.split("\n"), 1):
        line = _COMMENT.sub("", raw.removesuffix("\r")).strip(" \t")
        if not line:
            continue
        if setting := _SETTING.fullmatch(line):
            name, value = setting.groups()
            if name in settings:
                report.add(f"{name} is given twice", number)
            settings[name] = _number(name, value, report, number)
            if name == "session":
                check_session(settings[name], report, number)
            continue
        node = _node_line(line, report, number)
        if node is not None:
            lines[len(nodes)] = number
            nodes.append(node)
    if "session" not in settings:
        report.add("there is no line session=N")
    cluster = Cluster(
        settings.get("session", 0), settings.get("nbmin", len(nodes)), tuple(nodes), path=path
    )
    return finish(cluster, lines, report)


def _number(name: str, text: str, report: Report, line: int) -> int:
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    report.add(f"{name} {text!r} is not a number", line)
    return 0


def _node_line(line: str, report: Report, number: int) -> Node | None:
    parts = [part.strip(" \t") for part in line.split(":")]
    if len(parts) not in (2, 3):
        report.add(f"{line!r} is neither session=N, nbmin=N nor NAME:ID:INTERFACE", number)
        return None
    name, identity, interface = (*parts, "eth0")[:3]
    node = Node(
        name,
        _number("node id", identity, report, number),
        name,
        interface,
        where=report.where(number),
    )
    check_node(node, report, lambda _: number)
    return node


# --- node sets ----------------------------------------------------------------------------

# A cluster has at most 254 nodes; ClusterShell would write out any range in memory.
_MAX_SET = 4096
# So many nodes with the longest names.
_MAX_TEXT = 254 * 65
_SET = re.compile(r"[A-Za-z0-9_.,!&^/\[\] -]+")
_RANGE = re.compile(r"([0-9]{1,12})-([0-9]{1,12})")


def parse_set(text: str) -> tuple[str, ...]:
    """Return the names in a node set such as ``krg[01-64]!krg03``, each once, in its order.

    The syntax is ClusterShell's, without its groups and wildcards.

    :raises InputError: it is not a node set.
    """
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

    # Blanks around the operators are the reader's; in a name they would be part of it.
    text = re.sub(r" *([,!&^]) *", r"\1", text.strip(" "))
    if not text:
        raise InputError("the node set is empty", hint="write it such as krg[01-64]")
    odd = next((c for c in text if not _SET.fullmatch(c)), " " if " " in text else None)
    if odd is not None:
        raise InputError(
            f"node set {text!r}: {odd!r} cannot be in a node's name",
            hint="write it such as krg[01-64] or krg1,krg5",
        )
    if len(text) > _MAX_TEXT or _size(text) > _MAX_SET:
        raise InputError(f"node set {text!s:.40}: too many nodes; a cluster has at most 254")
    try:
        return tuple(dict.fromkeys(NodeSet(text, resolver=RESOLVER_NOGROUP)))
    except NodeSetException as error:
        said = re.sub(r'"+', "", str(error).partition(': "')[0])
        raise InputError(
            f"node set {text!r}: {said}", hint="write it such as krg[01-64] or krg1,krg5"
        ) from error


def _size(text: str) -> int:
    """Return at least how many names the ranges of a node set stand for."""
    total = 0
    for part in re.split(r"[!&^]|,(?![^\[]*\])", text):
        count = 1
        for inside in re.findall(r"\[([^\[\]]*)\]", part):
            ranges = _RANGE.findall(inside)
            count *= inside.count(",") + 1 + sum(max(0, int(b) - int(a)) for a, b in ranges)
        total += count
    return total


def in_use(given: Path | None = None) -> Path:
    """Return the cluster file that node sets are taken from.

    :param given: what --cluster says. Else it is $KRG_CLUSTER, ./cluster.toml or
        /etc/krg-provision/cluster.toml, the first that there is.
    :raises InputError: there is none.
    """
    named = os.environ.get(VARIABLE)
    if given is not None or named:
        return given or Path(str(named))
    for path in PLACES:
        if path.exists():
            return path
    raise InputError(
        f"no cluster file in use: no {PLACES[0]} here, no {PLACES[1]}",
        hint=f"name one: --cluster FILE, {VARIABLE}=FILE or --nodes FILE; "
        "krg-provision init writes one",
    )


def select(nodes: str, exclude: str | None = None, *, cluster: Path | None = None) -> Cluster:
    """Return the cluster that ``nodes`` names, its ``selected`` being those nodes.

    :param nodes: a cluster.toml or kerrighed_nodes file, ``lab:NAME``, or a node set out of
        the cluster file in use.
    :param exclude: a node set to leave out.
    :param cluster: the cluster file in use; see ``in_use``.
    :raises InputError: no such file or node, not a node set, or nothing is left.
    """
    return select_all([nodes], [exclude] if exclude is not None else [], cluster=cluster)[0]


def select_all(
    nodes: Sequence[str], exclude: Sequence[str] = (), *, cluster: Path | None = None
) -> tuple[Cluster, ...]:
    """Return the clusters that several ``nodes`` name; see ``select``.

    :raises InputError: also when two clusters cannot be told apart on one wire.
    """
    clusters: dict[Path, Cluster] = {}
    names: dict[Path, frozenset[str]] = {}
    for text in nodes:
        path = _file(text)
        if path is not None and is_host(text):
            _check_meant(text, cluster)
        found = read_cluster(path or in_use(cluster))
        assert found.path is not None
        place = found.path.resolve()
        known = clusters.setdefault(place, found)
        wanted = {n.name for n in known.nodes} if path else set(_known(text, [known]))
        names[place] = names.get(place, frozenset()) | wanted
    check_wire(tuple(clusters.values()))
    without = {name for text in exclude for name in _known(text, list(clusters.values()))}
    if all(wanted <= without for wanted in names.values()):
        raise InputError(
            f"no node is left of {', '.join(nodes)}"
            + (f" without {', '.join(exclude)}" if exclude else "")
        )
    return tuple(
        replace(clusters[place], only=wanted - without)
        for place, wanted in names.items()
        if wanted - without
    )


def _file(text: str) -> Path | None:
    """Return the cluster file that ``text`` names, None if it is a node set."""
    if text.startswith("lab:"):
        return _lab_file(text.removeprefix("lab:"))
    if "\0" in text:
        raise InputError(f"{text!r} is neither a file nor a node set")
    path = Path(text)
    try:
        # A step in a range has a slash too: krg[01-09/2].
        is_file = path.suffix == ".toml" or ("/" in text and "[" not in text) or path.is_file()
    except OSError:  # a name that is too long
        is_file = False
    return path if is_file else None


def _check_meant(text: str, cluster: Path | None) -> None:
    """Refuse a file's name that is a node's name too: nobody can tell which was meant."""
    try:
        used = read_cluster(in_use(cluster))
    except InputError:
        return
    if any(node.name == text for node in used.nodes):
        raise InputError(
            f"{text} is a file here and a node of {used.path}", hint=f"for the file write ./{text}"
        )


def _lab_file(name: str) -> Path:
    from provision.lab import state

    return state.cluster_file(name)


def _known(text: str, clusters: Sequence[Cluster]) -> tuple[str, ...]:
    """Return the names in a node set, all of which must be nodes of the clusters."""
    from provision.plan import fold

    there = [node.name for one in clusters for node in one.nodes]
    wanted = parse_set(text)
    if not wanted:
        raise InputError(f"node set {text!r} is empty")
    unknown = [name for name in wanted if name not in there]
    if unknown:
        where = " and ".join(str(one.path) for one in clusters)
        close = _nearest(unknown[0], there)
        also = f"; did you mean {close}?" if close else ""
        raise InputError(
            f"no node {fold(unknown)} in {where}{also}", hint=f"its nodes are {fold(there)}"
        )
    return wanted


def _nearest(name: str, there: Sequence[str]) -> str | None:
    """Return the name most like ``name``: krg01 is the same number as krg1."""
    plain = re.sub(r"0+([0-9])", r"\1", name)
    same = [one for one in there if re.sub(r"0+([0-9])", r"\1", one) == plain]
    close = same or difflib.get_close_matches(name, there, 1, 0.5)
    return close[0] if close else None
