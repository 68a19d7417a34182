# SPDX-License-Identifier: GPL-2.0-or-later
"""What a cluster and its nodes are, and every rule about their values.

The rules come from Kerrighed 2.4.4: ``session_id`` is an unsigned char; a node_id that the
kernel refuses is a BUG() at boot; its own reader of /etc/kerrighed_nodes takes less than
4,096 bytes and no blanks or comments. What can be in a value is what needs no quoting in a
boot entry and in a shell, though it is quoted there.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from provision.data import render
from provision.errors import InputError

MAX_SESSION = 255
# TIPC's address is the id plus one, and must fit in 1..255.
MAX_NODE_ID = 254
# Without KRG_AUTONODEID the kernel refuses ids from 128 on.
MAX_PLAIN_NODE_ID = 127
# The kernel reads at most this many bytes of /etc/kerrighed_nodes, its end mark included.
MAX_NODES_FILE = 4096

BOOT_LOADERS = ("auto", "legacy", "grub2", "none")
SUDO = ("no password", "ask")
# What krg-provision writes into every boot entry itself.
OURS = ("root", "node_id", "session_id", "panic")

DESCRIBED = "man cluster.toml, or docs/deploy.md, describes the file"

_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")  # IFNAMSIZ - 1
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_ARGUMENT = re.compile(r"[A-Za-z0-9_.,:/=+@%-]{1,200}")
_ROOT = re.compile(r"/dev/[A-Za-z0-9/_-]{1,60}")
_MODULE = re.compile(r"(?!(?:yes|no|true|false|on|off|auto|none)$)[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_LOGIN = re.compile(
    r"(?:(?P<user>[^@]+)@)?(?P<host>[^@:\[\]]+|\[[^\[\]]+\])(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True)
class Login:
    """Where to log in: ``user@host:port``; what is None comes from ~/.ssh/config."""

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        """Return it as it is written in the cluster file."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user else ""
        return user + host + (f":{self.port}" if self.port else "")


@dataclass(frozen=True)
class Node:
    """One machine of the cluster and how to log in to it.

    Without ``user``, ``port`` and ``jump``, those of ~/.ssh/config, else root, 22 and no
    jump host, are used; an empty ``jump`` means none. ``root`` overrides root= of its boot
    entry, ``drop`` names arguments of the current entry that the new one does not take over,
    ``append`` is added to it. ``sudo`` says how a user other than root becomes root;
    ``old_ssh`` talks to an OpenSSH older than 7.2, which knows RSA keys with SHA-1 only.
    ``watchdog`` is whether a trial boot may use one, or the module that drives it.
    ``mac`` is the card it boots from without a disk, as ``read_mac`` returns it.
    ``where`` is the file and line that say so, for messages.
    """

    name: str
    id: int
    address: str
    interface: str = "eth0"
    user: str | None = None
    port: int | None = None
    jump: tuple[Login, ...] | None = None
    key: Path | None = None
    known_hosts: Path | None = None
    root: str | None = None
    append: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    boot_loader: str = "auto"
    sudo: str = "no password"
    watchdog: bool | str = False
    old_ssh: bool = False
    mac: str | None = None
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class Cluster:
    """A session: which nodes form it, and how many must be there before it starts by itself.

    ``nodes`` are all of them, as each must know all; ``selected`` are those worked on.
    """

    session: int
    nbmin: int
    nodes: tuple[Node, ...]
    release: str | None = None
    arch: str | None = None
    legacy_sched: bool = True
    only: frozenset[str] | None = None
    path: Path | None = field(default=None, compare=False)

    @property
    def selected(self) -> tuple[Node, ...]:
        """Return the nodes that a command works on, in the order of the file."""
        return tuple(n for n in self.nodes if self.only is None or n.name in self.only)

    def nodes_file(self) -> str:
        """Return the text of /etc/kerrighed_nodes in the one form that the kernel reads."""
        return render(
            "kerrighed_nodes.j2", session=self.session, nbmin=self.nbmin, nodes=self.nodes
        )


class Report:
    """Collects what is wrong with one file, with line numbers where they are known."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: list[tuple[int, str]] = []

    def add(self, text: str, line: int | None = None) -> None:
        """Note one violation; the same one twice is one."""
        if (line or 0, text) not in self._found:
            self._found.append((line or 0, text))

    def where(self, line: int | None) -> str:
        """Return FILE:LINE, or FILE where the line is not known."""
        return f"{self.path}:{line}" if line else str(self.path)

    def finish(self) -> None:
        """Raise one InputError with everything found, if anything was."""
        raise_all([f"{self.where(line)}: {text}" for line, text in sorted(self._found)], self.path)


def raise_all(found: list[str], what: object) -> None:
    """Raise one InputError for all violations of ``what``, if there are any."""
    if len(found) == 1:
        raise InputError(found[0], hint=DESCRIBED)
    if found:
        lines = "\n  ".join([f"{what}: {len(found)} things are wrong", *found])
        raise InputError(lines, hint=DESCRIBED)


# --- one value ----------------------------------------------------------------------------


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


def is_node_name(name: str) -> bool:
    """Tell whether the kernel can find ``name`` in its kerrighed_nodes.

    It compares it with its own name, of at most 64 bytes; a colon would end it.
    """
    return is_host(name) and len(name) <= 64 and ":" not in name


def is_interface(name: str) -> bool:
    """Tell whether ``name`` can be a network interface's."""
    return _INTERFACE.fullmatch(name) is not None


def is_user(name: str) -> bool:
    """Tell whether ``name`` can be a user's."""
    return _USER.fullmatch(name) is not None


def is_word(name: str) -> bool:
    """Tell whether ``name`` can be a release's or an architecture's."""
    return _WORD.fullmatch(name) is not None


def read_mac(text: str) -> str:
    """Return an Ethernet address in small letters with colons; other text as it is."""
    found = text.lower().replace("-", ":")
    return found if _MAC.fullmatch(found) else text


def is_mac(text: str) -> bool:
    """Tell whether ``text`` is one card's Ethernet address, as ``read_mac`` returns it.

    A first byte that is odd is a group's (IEEE 802), and all zeros no card's.
    """
    return (
        _MAC.fullmatch(text) is not None
        and int(text[:2], 16) % 2 == 0
        and text != "00:00:00:00:00:00"
    )


def parse_login(text: str) -> Login | None:
    """Read ``host``, ``user@host`` or ``user@host:port``; IPv6 in brackets; None if it is not."""
    match = _LOGIN.fullmatch(text)
    if match is None:
        return None
    host, user, port = match["host"].strip("[]"), match["user"], match["port"]
    if not is_host(host) or (user is not None and not is_user(user)):
        return None
    if port is not None and not 1 <= int(port) <= 65535:
        return None
    return Login(host, user, int(port) if port else None)


def check_session(value: int, report: Report, line: int | None = None) -> None:
    """Check a session id."""
    if not 0 <= value <= MAX_SESSION:
        report.add(f"session {value} is not between 0 and {MAX_SESSION}", line)


def _sets_ours(words: tuple[str, ...]) -> bool:
    return any(word.partition("=")[0] in OURS for word in words)


def check_node(node: Node, report: Report, line_of: Callable[[str], int | None]) -> None:
    """Check the values of one node by themselves; ``line_of(key)`` is the line of a key."""
    append, drop = " ".join(node.append), " ".join(node.drop)
    writes = "what krg-provision writes itself (root=, node_id=, session_id=, panic=)"
    cannot = "has characters a boot entry cannot carry"
    checks = (
        ("name", is_node_name(node.name), f"{node.name!r} is not a host name"),
        ("id", 1 <= node.id <= MAX_NODE_ID, f"node id {node.id} is not in 1..{MAX_NODE_ID}"),
        (
            "address",
            # Left out it is the name, which has been judged.
            node.address == node.name or is_host(node.address),
            f"{node.address!r} is not a host name or address",
        ),
        (
            "interface",
            is_interface(node.interface),
            f"{node.interface!r} is not a network interface's name",
        ),
        (
            "user",
            node.user is None or is_user(node.user),
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
        ("append", all(map(_ARGUMENT.fullmatch, node.append)), f"append {append!r} {cannot}"),
        ("append", not _sets_ours(node.append), f"append sets {writes}"),
        ("drop", all(map(_ARGUMENT.fullmatch, node.drop)), f"drop {drop!r} {cannot}"),
        ("drop", not _sets_ours(node.drop), f"drop names {writes}"),
        (
            "boot_loader",
            node.boot_loader in BOOT_LOADERS,
            f"boot_loader {node.boot_loader!r} is none of {', '.join(BOOT_LOADERS)}",
        ),
        (
            "watchdog",
            isinstance(node.watchdog, bool) or _MODULE.fullmatch(node.watchdog),
            f"watchdog must be true or false, or a kernel module's name, not {node.watchdog!r}",
        ),
        (
            "mac",
            node.mac is None or is_mac(node.mac),
            f"mac {node.mac!r} is not a card's address such as 00:16:3e:5a:01:0b",
        ),
        (
            "sudo",
            node.sudo in SUDO,
            # Somebody may have written the password here: it is not repeated.
            f'sudo must be "{SUDO[0]}" or "{SUDO[1]}"; a password does not belong into this file',
        ),
    )
    for key, good, text in checks:
        if not good:
            report.add(text, line_of(key))


# --- several values -----------------------------------------------------------------------


def same_host(address: str) -> object:
    """Return a value that is the same for two spellings of one address or host name."""
    try:
        value = ipaddress.ip_address(address)
    except ValueError:
        return address.lower().rstrip(".")
    return getattr(value, "ipv4_mapped", None) or value


def login_of(node: Node) -> object:
    """Return a value that is the same for two nodes that are logged in to at one place."""
    return same_host(node.address), node.port or 22, node.jump or ()


def check_cluster(cluster: Cluster, lines: Mapping[int, int], report: Report) -> None:
    """Apply the rules that concern more than one value; ``lines`` is by position of node."""
    seen: dict[object, str] = {}
    for number, node in enumerate(cluster.nodes):
        line = lines.get(number)
        for key, what in (
            (("name", node.name.lower()), f"name {node.name}"),
            (("id", node.id), f"id {node.id}"),
            (("login", login_of(node)), f"address {node.address} port {node.port or 22}"),
            (("mac", node.mac), f"mac {node.mac}"),
        ):
            if key == ("mac", None):
                continue
            if key in seen:
                text = f"node {node.name}: {what} is already node {seen[key]}'s"
                # Not judged yet, they may hold what a terminal obeys.
                report.add(text if text.isprintable() else ascii(text), line)
            seen.setdefault(key, node.name)
    if not cluster.nodes:
        report.add("there is no node")
    elif not 1 <= cluster.nbmin <= len(cluster.nodes):
        report.add(f"nbmin {cluster.nbmin} is not between 1 and {len(cluster.nodes)}, all nodes")


def finish(cluster: Cluster, lines: Mapping[int, int], report: Report) -> Cluster:
    """Return the cluster if it breaks no rule; else raise one InputError with all of them."""
    check_cluster(cluster, lines, report)
    report.finish()
    size = len(cluster.nodes_file().encode())
    if size >= MAX_NODES_FILE:
        report.add(
            f"/etc/kerrighed_nodes would have {size} bytes, the kernel reads fewer than "
            f"{MAX_NODES_FILE}; use shorter names"
        )
    report.finish()
    return cluster


def has_autonodeid(config: str) -> bool:
    """Tell whether a kernel's .config lets it take its id from its address."""
    return "CONFIG_KRG_AUTONODEID=y\n" in config


def address_as_id(word: str) -> str | None:
    """Return the address that a kernel argument makes the kernel's own, "" if not known yet.

    None: the argument sets no address. ``ip=`` and ``nfsaddrs=`` are two names of one
    parameter (net/ipv4/ipconfig.c).
    """
    name, _, value = word.partition("=")
    if name not in ("ip", "nfsaddrs") or value in ("off", "none"):
        return None
    address = value.partition(":")[0]
    return address if re.fullmatch(r"[0-9]+(\.[0-9]+){3}", address) else ""


def check_against_kernel(cluster: Cluster, config: str) -> None:
    """Check the node ids against the kernel that will get them.

    :param config: the kernel's .config. Without KRG_AUTONODEID an id from 128 on is a
        BUG() at boot; with it, an address on the command line becomes the id and node_id=
        is ignored (Kerrighed 2.4.4).
    :raises InputError: an id is out of range, or would not be the node's; all of them.
    """
    if not has_autonodeid(config):
        nodes = [node for node in cluster.nodes if node.id > MAX_PLAIN_NODE_ID]
        if nodes:
            high = ", ".join(f"{node.name} has {node.id}" for node in nodes)
            raise InputError(
                f"{_at(nodes[0])}node ids above {MAX_PLAIN_NODE_ID} stop this kernel at boot: "
                f"{high}",
                hint="give lower ids, or build with KRG_AUTONODEID=y",
            )
        return
    found = []
    for node in cluster.nodes:
        for word in node.append:
            address = address_as_id(word)
            if address is not None and address.rpartition(".")[2] != str(node.id):
                found.append(
                    f"{_at(node)}node {node.name}: append has {word}, and this kernel takes the "
                    f"last byte of its address as id: that must be {node.id}"
                )
    raise_all(found, cluster.path or "the cluster file")


def _at(node: Node) -> str:
    return f"{node.where}: " if node.where else ""


def check_wire(clusters: tuple[Cluster, ...]) -> None:
    """Check that clusters worked on together can tell each other apart on one wire.

    What can be known is what the files say: two of one session whose nodes are logged in to
    at the same place, or in the same network (the first three bytes of an IPv4 address, the
    first half of an IPv6 one) through an interface of the same name. Two clusters in two
    networks may still share a wire, and are not found.

    :raises InputError: two clusters of one session share machines or a network.
    """
    found = []
    for number, one in enumerate(clusters):
        for two in clusters[number + 1 :]:
            if one.session != two.session:
                continue
            there = {place: node for node in one.nodes for place in _places(node)}
            for node in two.nodes:
                shared = next((there[place] for place in _places(node) if place in there), None)
                if shared is not None:
                    found.append(
                        f"{_at(node)}node {node.name} and node {shared.name} "
                        f"({shared.where or one.path}) can be on one wire, and both clusters have "
                        f"session {one.session}: give one another session"
                    )
                    break
    raise_all(found, "the cluster files")


def _places(node: Node) -> list[object]:
    try:
        address = ipaddress.ip_address(node.address)
    except ValueError:
        return [login_of(node)]
    if address.is_loopback:
        return [login_of(node)]
    bits = 24 if address.version == 4 else 64
    network = ipaddress.ip_network(f"{address}/{bits}", strict=False)
    return [login_of(node), (node.interface, network, node.jump or ())]
