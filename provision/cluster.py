# SPDX-License-Identifier: GPL-2.0-or-later
"""The cluster and its nodes: read from cluster.toml or from a kerrighed_nodes file.

Every rule about ids, names and sessions is here. All violations of a file are
reported at once. The rules come from Kerrighed 2.4.4: ``session_id`` is an unsigned
char; a node_id that the kernel refuses is a BUG() at boot; its own reader of
/etc/kerrighed_nodes takes less than 4,096 bytes and no blanks or comments.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from provision.data import render
from provision.errors import InputError

MAX_SESSION = 255
# TIPC's address is the id plus one, and must fit in 1..255.
MAX_NODE_ID = 254
# Without KRG_AUTONODEID the kernel refuses ids from 128 on.
MAX_PLAIN_NODE_ID = 127
# The kernel reads at most this many bytes of /etc/kerrighed_nodes, its end mark included.
MAX_NODES_FILE = 4096

_DESCRIBED = "man cluster.toml, or docs/deploy.md, describes the file"

_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")  # IFNAMSIZ - 1
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_ARGUMENT = re.compile(r"[A-Za-z0-9_.,:/=+@%-]{1,200}")
_ROOT = re.compile(r"/dev/[A-Za-z0-9/_-]{1,60}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")

_TOP = {"session", "nbmin", "release", "arch", "known_hosts", "legacy_sched", "defaults", "node"}
_NODE = {
    "address",
    "append",
    "id",
    "interface",
    "key",
    "known_hosts",
    "name",
    "old_ssh",
    "port",
    "root",
    "user",
}
_DEFAULTS = (_NODE - {"address", "id", "name"}) | {"arch"}


@dataclass(frozen=True)
class Node:
    """One machine of the cluster and how to log in to it.

    Without ``user`` and ``port``, those of ~/.ssh/config, else root and 22, are used.
    ``root`` overrides root= of its boot entry, ``append`` is added to that entry;
    ``old_ssh`` talks to an OpenSSH older than 7.2, which knows RSA keys with SHA-1 only.
    """

    name: str
    id: int
    address: str
    interface: str = "eth0"
    user: str | None = None
    port: int | None = None
    key: Path | None = None
    known_hosts: Path | None = None
    root: str | None = None
    append: tuple[str, ...] = ()
    old_ssh: bool = False


@dataclass(frozen=True)
class Cluster:
    """A session: which nodes form it, and how many must be there before it starts by itself."""

    session: int
    nbmin: int
    nodes: tuple[Node, ...]
    release: str | None = None
    arch: str | None = None
    legacy_sched: bool = True

    def nodes_file(self) -> str:
        """Return the text of /etc/kerrighed_nodes in the one form that the kernel reads."""
        return render(
            "kerrighed_nodes.j2", session=self.session, nbmin=self.nbmin, nodes=self.nodes
        )


class _Report:
    """Collects what is wrong with one file, with line numbers where they are known."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        self.kind = kind
        self._found: list[tuple[int, str]] = []

    def add(self, text: str, line: int | None = None) -> None:
        if (line or 0, text) not in self._found:
            self._found.append((line or 0, text))

    def finish(self) -> None:
        """Raise one InputError with everything found, if anything was."""
        found = [
            f"{self.path}:{line}: {text}" if line else f"{self.path}: {text}"
            for line, text in sorted(self._found)
        ]
        if len(found) == 1:
            raise InputError(found[0], hint=_DESCRIBED)
        if found:
            lines = "\n  ".join([f"{self.path}: {len(found)} things are wrong", *found])
            raise InputError(lines, hint=_DESCRIBED)


def is_host(name: str) -> bool:
    """Tell whether ``name`` is a host name (RFC 1123) or an address, and nothing else."""
    try:
        ipaddress.ip_address(name)
        return "%" not in name
    except ValueError:
        labels = name.split(".")
        # All digits and dots would be an address, and a wrong one.
        return (
            len(name) <= 253
            and all(_LABEL.fullmatch(label) for label in labels)
            and not labels[-1].isdecimal()
        )


def _is_node_name(name: str) -> bool:
    # The kernel compares it with its own name, of at most 64 bytes; a colon would end it.
    return is_host(name) and len(name) <= 64 and ":" not in name


def read_cluster(path: Path) -> Cluster:
    """Read a cluster.toml or a kerrighed_nodes file.

    The latter in the kernel's own form, or with blanks around ``=`` and ``:``, blank lines
    and comments, as tutorials print it.

    :raises InputError: it cannot be read, or breaks rules; all of them are in the message.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file", hint=_DESCRIBED) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error
    return read_toml(path, text) if path.suffix == ".toml" else read_nodes_file(path, text)


def _same_host(address: str) -> object:
    """Return a value that is the same for two spellings of one address or host name."""
    try:
        value = ipaddress.ip_address(address)
    except ValueError:
        return address.lower().rstrip(".")
    return getattr(value, "ipv4_mapped", None) or value


def _check(cluster: Cluster, lines: Mapping[int, int], report: _Report) -> None:
    """Apply the rules that concern more than one value; ``lines`` is by position of node."""
    seen: dict[object, str] = {}
    for number, node in enumerate(cluster.nodes):
        line = lines.get(number)
        for key, what in (
            (("name", node.name.lower()), f"name {node.name}"),
            (("id", node.id), f"id {node.id}"),
            (
                ("host", _same_host(node.address), node.port or 22),
                f"address {node.address} port {node.port or 22}",
            ),
        ):
            if key in seen:
                report.add(f"node {node.name}: {what} is already node {seen[key]}'s", line)
            seen.setdefault(key, node.name)
    if not cluster.nodes:
        report.add("there is no node")
    elif not 1 <= cluster.nbmin <= len(cluster.nodes):
        report.add(f"nbmin {cluster.nbmin} is not between 1 and {len(cluster.nodes)}, all nodes")


def _size_check(cluster: Cluster, report: _Report) -> None:
    size = len(cluster.nodes_file().encode())
    if size >= MAX_NODES_FILE:
        report.add(
            f"/etc/kerrighed_nodes would have {size} bytes, the kernel reads fewer than "
            f"{MAX_NODES_FILE}; use shorter names"
        )


def has_autonodeid(config: str) -> bool:
    """Tell whether a kernel's .config lets it take its id from its address."""
    return "CONFIG_KRG_AUTONODEID=y\n" in config


def check_against_kernel(cluster: Cluster, config: str) -> None:
    """Check the node ids against the kernel that will get them.

    :param config: the kernel's .config. Without KRG_AUTONODEID an id from 128 on is a
        BUG() at boot (Kerrighed 2.4.4).
    :raises InputError: an id is out of range.
    """
    if has_autonodeid(config):
        return
    high = [f"{node.name} has {node.id}" for node in cluster.nodes if node.id > MAX_PLAIN_NODE_ID]
    if high:
        raise InputError(
            f"node ids above {MAX_PLAIN_NODE_ID} stop this kernel at boot: {', '.join(high)}",
            hint="give lower ids, or build with KRG_AUTONODEID=y",
        )


# --- kerrighed_nodes ---------------------------------------------------------------------

_SETTING = re.compile(r"(session|nbmin)\s*=\s*(\S.*)")


def read_nodes_file(path: Path, text: str) -> Cluster:
    """Read the text of a kerrighed_nodes file; see ``read_cluster``."""
    report = _Report(path, "kerrighed_nodes")
    settings: dict[str, int] = {}
    nodes: list[Node] = []
    lines: dict[int, int] = {}
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.split("#")[0].strip()
        if not line:
            continue
        if setting := _SETTING.fullmatch(line):
            name, value = setting.groups()
            if name in settings:
                report.add(f"{name} is given twice", number)
            settings[name] = _number(name, value, report, number)
            continue
        node = _node_line(line, report, number)
        if node is not None:
            lines[len(nodes)] = number
            nodes.append(node)
    if "session" not in settings:
        report.add("there is no line session=N")
    _session(settings.get("session", 0), report)
    cluster = Cluster(settings.get("session", 0), settings.get("nbmin", len(nodes)), tuple(nodes))
    return _finish(cluster, lines, report)


def _finish(cluster: Cluster, lines: Mapping[int, int], report: _Report) -> Cluster:
    _check(cluster, lines, report)
    report.finish()
    _size_check(cluster, report)
    report.finish()
    return cluster


def _session(value: int, report: _Report, line: int | None = None) -> None:
    if not 0 <= value <= MAX_SESSION:
        report.add(f"session {value} is not between 0 and {MAX_SESSION}", line)


def _number(name: str, text: str, report: _Report, line: int) -> int:
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    report.add(f"{name} {text!r} is not a number", line)
    return 0


def _node_line(line: str, report: _Report, number: int) -> Node | None:
    parts = [part.strip() for part in line.split(":")]
    if len(parts) not in (2, 3):
        report.add(f"{line!r} is neither session=N, nbmin=N nor NAME:ID:INTERFACE", number)
        return None
    name, identity, interface = (*parts, "eth0")[:3]
    node = Node(name, _number("node id", identity, report, number), name, interface)
    _node_rules(node, report, lambda _: number)
    return node


# --- cluster.toml ------------------------------------------------------------------------


def _node_rules(node: Node, report: _Report, line_of: Any) -> None:
    """Check the values of one node by themselves; ``line_of(key)`` is the line of a key."""
    checks = (
        ("name", _is_node_name(node.name), f"{node.name!r} is not a host name"),
        ("id", 1 <= node.id <= MAX_NODE_ID, f"node id {node.id} is not in 1..{MAX_NODE_ID}"),
        ("address", is_host(node.address), f"{node.address!r} is not a host name or address"),
        (
            "interface",
            _INTERFACE.fullmatch(node.interface),
            f"{node.interface!r} is not a network interface's name",
        ),
        (
            "user",
            node.user is None or _USER.fullmatch(node.user),
            f"{node.user!r} is not a user name",
        ),
        (
            "port",
            node.port is None or 1 <= node.port <= 65535,
            f"port {node.port} is not between 1 and 65535",
        ),
        (
            "root",
            node.root is None or _ROOT.fullmatch(node.root),
            f"root {node.root!r} is not a device such as /dev/hda1",
        ),
        (
            "append",
            all(_ARGUMENT.fullmatch(word) for word in node.append),
            f"append {' '.join(node.append)!r} has characters a boot entry cannot carry",
        ),
        (
            "append",
            not any(
                word.startswith(("node_id=", "session_id=", "root=", "panic="))
                for word in node.append
            ),
            "append sets what krg-provision writes itself (root=, node_id=, session_id=, panic=)",
        ),
    )
    for key, good, text in checks:
        if not good:
            report.add(text, line_of(key))


class _Lines:
    """Finds the lines of tables and keys, which tomllib does not tell. A guess, for messages."""

    def __init__(self, text: str) -> None:
        self._nodes: list[dict[str, int]] = []
        self._top: dict[str, int] = {}
        current = self._top
        for number, line in enumerate(text.split("\n"), 1):
            if re.match(r"\s*\[\[\s*node\s*\]\]", line):
                current = {"": number}
                self._nodes.append(current)
            elif table := re.match(r"\s*\[\s*([A-Za-z_]+)\s*\]", line):
                current = {}
                self._top.setdefault(table.group(1), number)
            elif key := re.match(r"\s*([A-Za-z_]+)\s*=", line):
                current.setdefault(key.group(1), number)

    def top(self, key: str) -> int | None:
        return self._top.get(key)

    def node(self, position: int, key: str = "") -> int | None:
        if position >= len(self._nodes):
            return None
        return self._nodes[position].get(key) or self._nodes[position].get("")


class _Table:
    """One table of the file: takes values out with their types checked."""

    def __init__(self, values: Mapping[str, Any], report: _Report, line_of: Any) -> None:
        self._values = values
        self._report = report
        self._line_of = line_of

    def known(self, names: set[str], where: str) -> None:
        for key in sorted(set(self._values) - names):
            close = difflib.get_close_matches(key, names, 1)
            also = f"; did you mean {close[0]}?" if close else ""
            self._report.add(f"unknown key {key!r} in {where}{also}", self._line_of(key))

    def report(self, key: str, text: str) -> None:
        self._report.add(text, self._line_of(key))

    def get(self, key: str, kind: type, default: Any) -> Any:
        if key not in self._values:
            return default
        value = self._values[key]
        # True is an int to Python, not to the person who wrote the file.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            word = {int: "a number", str: "text", bool: "true or false"}.get(kind, kind.__name__)
            self._report.add(f"{key} must be {word}, not {value!r}", self._line_of(key))
            return default
        return value


def read_toml(path: Path, text: str) -> Cluster:
    """Read the text of a cluster.toml; see docs/deploy.md for what it may hold."""
    report = _Report(path, "cluster.toml")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    lines = _Lines(text)
    top = _Table(values, report, lines.top)
    top.known(_TOP, "the file")
    if "session" not in values:
        report.add("there is no session")
    session = top.get("session", int, 0)
    _session(session, report, lines.top("session"))
    given = values.get("defaults", {})
    if not isinstance(given, dict):
        report.add("defaults must be a table: [defaults]", lines.top("defaults"))
        given = {}
    defaults = _Table(given, report, lambda _: lines.top("defaults"))
    defaults.known(_DEFAULTS, "[defaults]")
    base = Node("", 0, "", known_hosts=_path(path, top, "known_hosts"))
    base = _fill(path, defaults, base)
    tables = values.get("node", [])
    if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        report.add("nodes must be tables: [[node]]", lines.top("node"))
        tables = []
    nodes = [
        _node(path, t, base, report=report, lines=lines, position=n) for n, t in enumerate(tables)
    ]
    arch = top.get("arch", str, defaults.get("arch", str, None))
    release = top.get("release", str, None)
    for key, value in (("arch", arch), ("release", release)):
        if value is not None and not _WORD.fullmatch(value):
            report.add(f"{key} {value!r} is not a name", lines.top(key))
    cluster = Cluster(
        session,
        top.get("nbmin", int, len(nodes)),
        tuple(nodes),
        release,
        arch,
        top.get("legacy_sched", bool, True),
    )
    return _finish(cluster, {n: lines.node(n) or 0 for n in range(len(nodes))}, report)


def _path(file: Path, table: _Table, key: str) -> Path | None:
    value = table.get(key, str, None)
    if value is None:
        return None
    try:
        if not value or "\0" in value:
            raise RuntimeError("not a file's name")
        # Relative to the cluster file, so that a directory with both can be moved.
        return file.parent / Path(value).expanduser()
    except RuntimeError as error:  # ~USER, and no such user
        table.report(key, f"{key} {value!r}: {error}")
        return None


def _fill(path: Path, table: _Table, base: Node) -> Node:
    """Return ``base`` with the values that may stand in [defaults] and in [[node]] alike."""
    append = table.get("append", str, None)
    return replace(
        base,
        interface=table.get("interface", str, base.interface),
        user=table.get("user", str, base.user),
        port=table.get("port", int, base.port),
        key=_path(path, table, "key") or base.key,
        known_hosts=_path(path, table, "known_hosts") or base.known_hosts,
        root=table.get("root", str, base.root),
        append=base.append if append is None else tuple(append.split()),
        old_ssh=table.get("old_ssh", bool, base.old_ssh),
    )


def _node(
    path: Path,
    values: Mapping[str, Any],
    base: Node,
    *,
    report: _Report,
    lines: _Lines,
    position: int,
) -> Node:
    def line_of(key: str) -> int | None:
        return lines.node(position, key)

    table = _Table(values, report, line_of)
    table.known(_NODE, "[[node]]")
    for key in ("name", "id"):
        if key not in values:
            report.add(f"node {position + 1} has no {key}", line_of(""))
    name = table.get("name", str, f"node{position + 1}")
    node = replace(
        _fill(path, table, base),
        name=name,
        id=table.get("id", int, position + 1),
        address=table.get("address", str, name),
    )
    _node_rules(node, report, line_of)
    return node
