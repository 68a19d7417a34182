# SPDX-License-Identifier: GPL-2.0-or-later
"""A new cluster.toml: from a list of hosts, from a kerrighed_nodes file, from what nodes say."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from provision.cluster import Cluster, Node, parse_login, parse_set, read_toml
from provision.cluster_rules import MAX_NODE_ID, is_host, is_node_name
from provision.data import render
from provision.errors import FailedError, InputError, KrgError
from provision.fleet import fleet
from provision.node import Session
from provision.ssh_keys import UnknownKeyError


@dataclass(frozen=True)
class Answer:
    """What a node says of itself: its host name, and (interface, address) pairs."""

    name: str
    addresses: tuple[tuple[str, str], ...]


def read_hosts(text: str) -> list[Node]:
    """Return the nodes that ``text`` lists: a node set, or the name of a file.

    A line of the file is a host, ``user@host:port``, a node set, or an address and a name as
    in /etc/hosts; # begins a comment. Ids are the numbers the names end with, if all do and
    no two are the same, else 1, 2, 3 and so on.

    :raises InputError: not a list of hosts; with file and line.
    """
    path = Path(text)
    if "\0" not in text and len(text) < 200 and path.is_file():
        try:
            lines = path.read_bytes().decode("utf-8").split("\n")
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error
        found = []
        for number, line in enumerate(lines, 1):
            try:
                found += _hosts_of(re.sub(r"(^|[ \t])#.*", "", line).strip(" \t\r"))
            except InputError as error:
                raise InputError(f"{path}:{number}: {error.message}", hint=error.hint) from error
    else:
        found = _hosts_of(text.strip())
    if not found:
        raise InputError(f"there is no host in {text!r}", hint="name some, such as krg[01-64]")
    return numbered(found)


def _hosts_of(line: str) -> list[Node]:
    if not line:
        return []
    words = re.split("[ \t]+", line)
    if len(words) == 2 and is_host(words[0]) and is_node_name(words[1]):
        return [Node(words[1], 1, words[0])]
    if ("@" in line or ":" in line) and "," not in line:
        try:
            ipaddress.ip_address(line)
            login = parse_login(f"[{line}]" if ":" in line else line)
        except ValueError:
            login = parse_login(line)
        if login is None:
            raise InputError(f"{line!r} is not HOST, USER@HOST, USER@HOST:PORT or a node set")
        return [Node(_name_of(login.host), 1, login.host, user=login.user, port=login.port)]
    return [Node(_name_of(host), 1, host) for host in parse_set(line)]


def _name_of(host: str) -> str:
    """Return the host name that a machine with this name or address probably has."""
    try:
        ipaddress.ip_address(host)
        return host
    except ValueError:
        # /etc/hostname has no domain.
        return host.partition(".")[0]


def numbered(nodes: Sequence[Node]) -> list[Node]:
    """Give the nodes ids: the numbers at the ends of their names where that works."""
    ends = [re.fullmatch(r"[A-Za-z0-9-]*?([0-9]{1,6})", node.name) for node in nodes]
    ids = [int(end[1]) for end in ends if end and not node_is_address(end[0])]
    fits = len(set(ids)) == len(nodes) and all(1 <= number <= MAX_NODE_ID for number in ids)
    return [replace(node, id=ids[at] if fits else at + 1) for at, node in enumerate(nodes)]


def node_is_address(name: str) -> bool:
    """Tell whether a node is called by an address: the kernel compares with its host name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


# --- what nodes say -----------------------------------------------------------------------


def parse_answer(out: bytes) -> Answer:
    """Read what templates/ask_node.sh.j2 printed.

    :raises FailedError: it is not complete, or has no usable host name.
    """
    lines = out.decode("utf-8", "replace").splitlines()
    words: dict[str, str] = {}
    addresses = []
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind == "address" and rest.count(" ") == 1:
            interface, address = rest.split(" ")
            addresses.append((interface, address))
        else:
            words.setdefault(kind, rest.strip())
    name = words.get("file") or words.get("name") or ""
    if "end" not in words or not name:
        raise FailedError("the node's answer makes no sense")
    return Answer(name, tuple(addresses))


def with_answer(node: Node, answer: Answer, *, keep_interface: bool = False) -> Node:
    """Return the node with its own name, and the interface and address it is reached at."""
    by_address = {address: interface for interface, address in answer.addresses}
    others = [(i, a) for i, a in answer.addresses if i != "lo" and not a.startswith("fe80:")]
    interface, address = node.interface, node.address
    if node.address in by_address and by_address[node.address] != "lo":
        interface = by_address[node.address]
    elif len({i for i, _ in others}) == 1:
        # One network only: the address of a port or jump host that leads there stays.
        interface = others[0][0]
        plain = node.port is None and not node.jump and not node_is_address(node.address)
        v4 = [a for _, a in others if ":" not in a]
        address = v4[0] if plain and len(v4) == 1 else node.address
    return replace(
        node,
        name=answer.name,
        address=address,
        interface=node.interface if keep_interface else interface,
    )


def ask(
    nodes: Sequence[Node], forks: int, *, keep_interface: bool = False, debug: bool = False
) -> list[Node]:
    """Log in to every node and return them as they describe themselves.

    :raises FailedError: one or more could not be asked; all are named, with what to run
        where their keys are unknown.
    """
    script = render("ask_node.sh.j2")
    answers: dict[str, Answer] = {}
    failed: dict[str, KrgError] = {}

    def one(session: Session) -> Answer:
        with session:
            done = session.run(script, label="krg-provision-init", idle=30.0)
        if done.timed_out:
            raise FailedError("the node stopped answering")
        if done.status != 0:
            said = done.err.decode("utf-8", "replace").strip().splitlines()
            raise FailedError(said[-1] if said else "the node's answer makes no sense")
        return parse_answer(done.out)

    with fleet(nodes, forks, debug=debug) as among:
        for node, answer in among.each(nodes, lambda node: one(among.session(node))):
            if isinstance(answer, KrgError):
                failed[node.name] = answer
            else:
                answers[node.name] = answer
    if failed:
        raise _all_failed(failed, len(nodes))
    return [with_answer(node, answers[node.name], keep_interface=keep_interface) for node in nodes]


def _all_failed(failed: Mapping[str, KrgError], count: int) -> FailedError:
    lines = [f"{len(failed)} of {count} hosts could not be asked; nothing was written"]
    lines += [f"{name}: {error.message}" for name, error in sorted(failed.items())]
    unknown = [error for error in failed.values() if isinstance(error, UnknownKeyError)]
    hints = {error.hint for error in failed.values() if error.hint and error not in unknown}
    groups: dict[tuple[str, int, str], list[str]] = {}
    for error in unknown:
        groups.setdefault((error.kind, error.port, error.file), []).append(error.host)
    if groups:
        hints.add(
            "compare the fingerprints on the hosts: ssh-keygen -lf /etc/ssh/ssh_host_KIND_key.pub; "
            "if they are the same:"
        )
    said = sorted(hints) + [
        f"ssh-keyscan -t {kind} -p {port} {' '.join(sorted(set(hosts)))} >>{file}"
        for (kind, port, file), hosts in sorted(groups.items())
    ]
    return FailedError("\n  ".join(lines), hint="\n  ".join(said) or None)


# --- the file -----------------------------------------------------------------------------

_SHARED = ("user", "port", "jump", "key", "known_hosts", "interface", "sudo")


def _toml(value: object) -> str:
    """Return a value as TOML: JSON's strings are TOML's, but for DEL."""
    if isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, tuple):
        return _toml(",".join(map(str, value)))
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def write(path: Path, cluster: Cluster) -> str:
    """Return the text of a cluster.toml; what all nodes share stands in [defaults].

    :param path: where it will be, for messages and relative file names.
    :raises InputError: the cluster breaks rules: all of them, with the lines as they would be.
    """
    plain = Node("", 0, "")
    shared: dict[str, str] = {}
    for key in _SHARED:
        found = {getattr(node, key) for node in cluster.nodes}
        if len(found) == 1 and found != {getattr(plain, key)}:
            shared[key] = _toml(found.pop())
    nodes = []
    for node in cluster.nodes:
        values = {"name": _toml(node.name), "id": _toml(node.id)}
        if node.address != node.name:
            values["address"] = _toml(node.address)
        for key in _SHARED:
            if key not in shared and getattr(node, key) != getattr(plain, key):
                values[key] = _toml(getattr(node, key))
        nodes.append(values)
    text = render(
        "cluster_toml.j2",
        session=cluster.session,
        nbmin=cluster.nbmin,
        defaults=shared,
        nodes=nodes,
    )
    try:
        read_toml(path, text)
    except InputError as error:
        raise InputError(f"nothing was written: {error.message}", hint=error.hint) from error
    return text
