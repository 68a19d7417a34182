# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of a cluster.toml to a Cluster; docs/deploy.md says what it may hold."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from provision.cluster_rules import (
    Cluster,
    Login,
    Node,
    Report,
    check_node,
    check_session,
    finish,
    is_word,
    parse_login,
    read_mac,
)
from provision.errors import InputError
from provision.toml_lines import Lines

_TOP = {"session", "nbmin", "release", "arch", "known_hosts", "legacy_sched", "defaults", "node"}
_NODE = {
    "address",
    "append",
    "boot_loader",
    "drop",
    "id",
    "interface",
    "jump",
    "key",
    "known_hosts",
    "mac",
    "name",
    "old_ssh",
    "port",
    "root",
    "sudo",
    "user",
    "watchdog",
}
_DEFAULTS = (_NODE - {"address", "id", "mac", "name"}) | {"arch"}


class _Table:
    """One table of the file: takes values out with their types checked."""

    def __init__(
        self, values: Mapping[str, Any], report: Report, line_of: Callable[[str], int | None]
    ) -> None:
        self._values = values
        self._report = report
        self._line_of = line_of

    def __contains__(self, key: str) -> bool:
        return key in self._values

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
            # Not the value: a password that was put into sudo would be printed.
            shown = "" if key == "sudo" else f", not {value!r}"
            self._report.add(f"{key} must be {word}{shown}", self._line_of(key))
            return default
        return value

    def words(self, key: str, separator: str) -> tuple[str, ...] | None:
        """Return the words of a text, or the texts of an array; None if the key is not there."""
        value = self._values.get(key)
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            return tuple(value)
        if isinstance(value, str):
            return tuple(word for word in re.split(separator, value) if word)
        if key in self._values:
            self._report.add(
                f"{key} must be text, or an array of texts, not {value!r}", self._line_of(key)
            )
        return None


def read_toml(path: Path, text: str) -> Cluster:
    """Read the text of a cluster.toml; ``path`` is for messages and relative file names.

    :raises InputError: it is not TOML, or breaks rules; all of them are in the message.
    """
    report = Report(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said, _, place = str(error).partition(" (at line ")
        found = re.match(r"[0-9]+", place)
        where = report.where(int(found.group()) if found else None)
        raise InputError(f"{where}: not TOML: {said if found else error}") from error
    except (RecursionError, ValueError) as error:  # nested, or a number, beyond all bounds
        raise InputError(f"{path}: not a cluster file: {error}") from error
    lines = Lines(text, "node")
    top = _Table(values, report, lines.top)
    top.known(_TOP, "the file")
    if "session" not in values:
        report.add("there is no session")
    session = top.get("session", int, 0)
    check_session(session, report, lines.top("session"))
    given = values.get("defaults", {})
    if not isinstance(given, dict):
        report.add("defaults must be a table: [defaults]", lines.top("defaults"))
        given = {}
    defaults = _Table(given, report, lambda key: lines.table("defaults", key))
    defaults.known(_DEFAULTS, "[defaults]")
    base = Node("", 0, "", known_hosts=_path(path, top, "known_hosts"))
    base = _fill(path, defaults, base)
    tables = values.get("node", [])
    if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        report.add("nodes must be tables: [[node]]", lines.top("node"))
        tables = []
    # Defaults are judged once, at their own lines, and not again for each node.
    proper = replace(base, name="node", id=1, address="node")
    check_node(proper, report, lambda key: lines.table("defaults", key))
    nodes = [
        _node(path, t, base, report=report, lines=lines, position=n) for n, t in enumerate(tables)
    ]
    arch = top.get("arch", str, defaults.get("arch", str, None))
    release = top.get("release", str, None)
    for key, value in (("arch", arch), ("release", release)):
        if value is not None and not is_word(value):
            line = lines.top(key) or lines.table("defaults", key)
            report.add(f"{key} {value!r} is not a name", line)
    cluster = Cluster(
        session,
        top.get("nbmin", int, len(nodes)),
        tuple(nodes),
        release,
        arch,
        top.get("legacy_sched", bool, True),
        path=path,
    )
    return finish(cluster, {n: lines.item(n) or 0 for n in range(len(nodes))}, report)


def _path(file: Path, table: _Table, key: str) -> Path | None:
    value = table.get(key, str, None)
    if value is None:
        return None
    try:
        if not value or not value.isprintable():
            raise RuntimeError("not a file's name")
        # Relative to the cluster file, so that a directory with both can be moved.
        return file.parent / Path(value).expanduser()
    except RuntimeError as error:  # ~USER, and no such user
        table.report(key, f"{key} {value!r}: {error}")
        return None


def _jump(table: _Table, base: tuple[Login, ...] | None) -> tuple[Login, ...] | None:
    words = table.words("jump", ",")
    if words is None:
        return base
    # As in ssh_config: this node is reached directly, whatever others say.
    if words in ((), ("none",)):
        return ()
    found = []
    for word in words:
        login = parse_login(word.strip(" "))
        if login is None:
            table.report("jump", f"jump {word!r} is not HOST, USER@HOST or USER@HOST:PORT")
        else:
            found.append(login)
    return tuple(found)


def _watchdog(table: _Table, base: bool | str) -> bool | str:
    """Return true, false, or the name of the module that drives it."""
    value = table.get("watchdog", object, base)
    if isinstance(value, bool | str):
        return value
    table.report("watchdog", "watchdog must be true or false, or a kernel module's name")
    return base


def _fill(path: Path, table: _Table, base: Node) -> Node:
    """Return ``base`` with the values that may stand in [defaults] and in [[node]] alike."""
    append, drop = table.words("append", "[ \t]"), table.words("drop", "[ \t]")
    return replace(
        base,
        interface=table.get("interface", str, base.interface),
        user=table.get("user", str, base.user),
        port=table.get("port", int, base.port),
        jump=_jump(table, base.jump),
        key=_path(path, table, "key") or base.key,
        known_hosts=_path(path, table, "known_hosts") or base.known_hosts,
        root=table.get("root", str, base.root),
        append=base.append if append is None else append,
        drop=base.drop if drop is None else drop,
        boot_loader=table.get("boot_loader", str, base.boot_loader),
        sudo=table.get("sudo", str, base.sudo),
        watchdog=_watchdog(table, base.watchdog),
        old_ssh=table.get("old_ssh", bool, base.old_ssh),
    )


def _node(
    path: Path,
    values: Mapping[str, Any],
    base: Node,
    *,
    report: Report,
    lines: Lines,
    position: int,
) -> Node:
    def line_of(key: str) -> int | None:
        if key in values or key not in _DEFAULTS:
            return lines.item(position, key)
        # Not this node's: the same line as for all others, so it is told once.
        return lines.table("defaults", key)

    table = _Table(values, report, line_of)
    table.known(_NODE, "[[node]]")
    for key in ("name", "id"):
        if key not in values:
            report.add(f"node {position + 1} has no {key}", line_of(""))
    name = table.get("name", str, f"node{position + 1}")
    mac = table.get("mac", str, None)
    node = replace(
        _fill(path, table, base),
        name=name,
        id=table.get("id", int, position + 1),
        address=table.get("address", str, name),
        mac=None if mac is None else read_mac(mac),
        where=report.where(lines.item(position)),
    )
    check_node(node, report, line_of)
    return node
