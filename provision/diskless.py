# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes without a disk: what a head node serves them, as files. Values in, values out.

A node gets an address and pxelinux from dnsmasq, its kernel by TFTP, and mounts its root over
NFS. Sources: Documentation/nfsroot.txt, fs/nfs/nfsroot.c and net/ipv4/ipconfig.c of Linux 2.6.20
with Kerrighed 2.4.4's patches; dnsmasq(8); exports(5); pxelinux's and NFS-Ganesha's manuals.
"""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from provision.artifacts import Artifacts
from provision.boot_line import PANIC_SECONDS
from provision.build_files import build_files
from provision.cluster import Cluster, Node, check_against_kernel, has_autonodeid
from provision.cluster_rules import is_interface, raise_all
from provision.data import render
from provision.errors import InputError
from provision.node_rules import table
from provision.plan import Wanted, is_safe_path, text_wanted
from provision.release import load as load_release

POLICY = "diskless"
# Where the files are on the head node: a place of its own, nobody else's.
PLACE = "/srv/krg-diskless"
TFTP = f"{PLACE}/tftp"
ROOT = f"{PLACE}/root"
# What an address without a length of its network has.
PREFIX = 24
# The loader, and the library without which this one does not start: both of Debian's packages.
LOADER = ("/usr/lib/PXELINUX/pxelinux.0", "/usr/lib/syslinux/modules/bios/ldlinux.c32")
# Version 3 over TCP: 2.6.20 would take version 2 over UDP, and servers of
# today have both switched off, or do not have them.
_NFS_OPTIONS = "v3,tcp"
# The arguments that are made here, and must not be in append.
_OURS = ("ip", "nfsaddrs", "nfsroot")
# nfs_root_name in fs/nfs/nfsroot.c, its end mark included.
_NFSROOT_SIZE = 256
# Symbols are capitals; a driver's name as people know it is written so too.
_SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9_]{0,39}")


@dataclass(frozen=True)
class Head:
    """The machine that serves: its address in the nodes' network, its card, the nodes' root.

    Without ``interface`` the address says which card it is. ``root`` may hold %s once, which
    is the node's name: a root for each. Without it all nodes share one.
    """

    address: ipaddress.IPv4Interface
    interface: str | None = None
    root: str = ROOT
    tftp: str = TFTP

    def root_of(self, node: Node) -> str:
        """Return the directory that is the node's root, on the head node."""
        return self.root.replace("%s", node.name)


@dataclass(frozen=True)
class Root:
    """A directory that is exported, to which nodes, and the number that stands for it."""

    path: str
    nodes: tuple[Node, ...]
    fsid: str


def read_address(text: str) -> ipaddress.IPv4Interface:
    """Read ``ADDRESS`` or ``ADDRESS/BITS``; without bits it is a /24, as Kerrighed advises.

    :raises InputError: it is no IPv4 address of a machine.
    """
    try:
        found = ipaddress.IPv4Interface(text if "/" in text else f"{text}/{PREFIX}")
    except ValueError:
        found = None
    if found is None or not _is_host(found.ip, found.network) or found.ip.is_loopback:
        raise InputError(
            f"--head {text[:60]!r} is not the IPv4 address of a machine in its network",
            hint="write it such as 192.168.0.1, or 10.1.0.1/16",
        )
    return found


def _is_host(address: ipaddress.IPv4Address, network: ipaddress.IPv4Network) -> bool:
    return address in network and address not in (
        network.network_address,
        network.broadcast_address,
    )


def head(address: str, interface: str | None, root: str) -> Head:
    """Return the head node that the options describe.

    :raises InputError: one of them is wrong.
    """
    if interface is not None and not is_interface(interface):
        raise InputError(f"--interface {interface[:60]!r} is not a network interface's name")
    # The kernel would take a % for a place to fill in as well.
    plain = root.replace("%s", "node", 1)
    if not is_safe_path(plain) or set("%,:=~") & set(plain):
        raise InputError(
            f"--root {root[:60]!r} is not the path of a directory on the head node",
            hint=f"letters, digits, ., _, + and -, as in {ROOT}; %s once is the node's name",
        )
    return Head(read_address(address), interface, root)


# --- may they go together? ----------------------------------------------------------------


def check(cluster: Cluster, build: Artifacts, config: str, server: Head) -> None:
    """Check that these nodes can boot this build from that head node.

    :param config: the build's .config.
    :raises InputError: a node lacks its mac or an address in the network, an id that the
        kernel would not take from there, or the kernel lacks what it needs.
    """
    check_kernel(build, config)
    network, nodes = server.address.network, cluster.selected
    found = []
    seen: dict[ipaddress.IPv4Address, Node] = {}
    for node in nodes:
        at = f"{node.where}: " if node.where else ""
        if node.mac is None:
            found.append(f"{at}node {node.name} has no mac: the card it boots from is not known")
        try:
            address = ipaddress.IPv4Address(node.address)
        except ValueError:
            found.append(
                f"{at}node {node.name}: address {node.address!r} is a name, and it must be the "
                "IPv4 address that the node shall have"
            )
            continue
        if not _is_host(address, network):
            found.append(f"{at}node {node.name}: {address} is no machine of the network {network}")
        elif address == server.address.ip:
            found.append(f"{at}node {node.name}: {address} is the head node's own address")
        elif address in seen:
            found.append(f"{at}node {node.name}: {address} is {seen[address].name}'s too")
        seen.setdefault(address, node)
        if has_autonodeid(config) and int(address) % 256 != node.id:
            found.append(
                f"{at}node {node.name}: this kernel takes the last byte of {address} as node id "
                f"and ignores node_id={node.id}: make both the same, or build with "
                "--set KRG_AUTONODEID=n"
            )
        for word in node.append:
            if word.partition("=")[0] in _OURS:
                found.append(
                    f"{at}node {node.name}: append has {word}, and without a disk "
                    f"{', '.join(f'{name}=' for name in _OURS)} are written by krg-provision"
                )
    raise_all(found, cluster.path or "the cluster file")
    check_against_kernel(cluster, config)


def check_kernel(build: Artifacts, config: str, drivers: Iterable[str] = ()) -> None:
    """Check that a kernel can mount its root over NFS by itself, by the policy "diskless".

    :param drivers: symbols of network drivers, such as E1000, that must be built in as well.
    :raises InputError: it cannot; one line says what has to be set.
    """
    from kconfig import config_file, lint, policy

    made = config_file.parse(config, str(build.path("config")))
    rules = policy.load(POLICY)
    subject = lint.Subject(made, _version(build), build.arch)
    findings = [f for f in lint.check(subject, rules) if f.severity == "required"]
    wrong = [f.fix.removeprefix("set ") if not f.symbol else f.fix for f in findings]
    values = subject.assigned
    for name in drivers:
        if not _SYMBOL.fullmatch(name):
            raise InputError(
                f"--driver {name[:60]!r} is not a driver's symbol", hint="such as E1000"
            )
        if name not in values or values[name].value != "y":
            wrong.append(f"CONFIG_{name}=y")
    if wrong:
        raise InputError(
            f"{build.directory}: this kernel cannot mount its root over NFS: it needs "
            f"{', '.join(dict.fromkeys(wrong))}",
            hint=f"build again: krg-provision build-kernel --release {build.release} "
            f"--policy {_policy(build)} --policy {POLICY}"
            + "".join(f" --set {name}=y" for name in drivers),
        )


def _version(build: Artifacts) -> tuple[int, int, int] | None:
    found = re.match(r"([0-9]+)\.([0-9]+)\.([0-9]+)", build.kernel_release)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def _policy(build: Artifacts) -> str:
    """Return the policy of the build's release; a release that is not shipped has no other."""
    try:
        return load_release(build.release).policy
    except InputError:
        return "boot"


def built_in_drivers(config: str) -> list[str]:
    """Return the network drivers that the policy knows and this kernel has built in."""
    from kconfig import policy

    lines = set(config.splitlines())
    rule = next(r for r in policy.load(POLICY).rules if r.id == "diskless-network-card")
    return [symbol for symbol in rule.symbols if f"CONFIG_{symbol}=y" in lines]


# --- the files ----------------------------------------------------------------------------


def kernel_line(node: Node, cluster: Cluster, server: Head, kernel: str) -> str:
    """Return the kernel's arguments for one node.

    The address is given, not asked for: with KRG_AUTONODEID the last byte of whatever address
    a DHCP server gives is the node id. The card is named, or a second one would have the kernel
    ask DHCP after all (ip_auto_config, net/ipv4/ipconfig.c). ``rw``: nothing below the root is
    to be checked before it may be written to. nb_nodes_min= is in kerrighed_nodes as well,
    which the kernel reads only where there is an /etc/hostname; a shared root has none.

    :param kernel: the kernel's file, which pxelinux adds as BOOT_IMAGE=.
    :raises InputError: it is longer than the kernel reads.
    """
    own, mask = server.address.ip, server.address.netmask
    place = f"{own}:{server.root_of(node)},{_NFS_OPTIONS}"
    line = " ".join(
        (
            "root=/dev/nfs",
            f"nfsroot={place}",
            f"ip={node.address}:{own}::{mask}:{_label(node)}:{node.interface}:off",
            "rw",
            f"session_id={cluster.session}",
            f"node_id={node.id}",
            f"nb_nodes_min={cluster.nbmin}",
            f"panic={PANIC_SECONDS}",
            *node.append,
        )
    )
    length, limit = len(f"{line} BOOT_IMAGE={kernel}"), table().command_line_size - 1
    if length > limit or len(place) >= _NFSROOT_SIZE:
        raise InputError(
            f"node {node.name}: the kernel's arguments would have {length} bytes; it reads "
            f"{limit} and cuts the rest",
            hint="shorten append in the cluster file, or --root",
        )
    return line


def _label(node: Node) -> str:
    """Return the node's name without its domain: the kernel would take that for NIS's."""
    return node.name.partition(".")[0]


def roots(nodes: Sequence[Node], server: Head) -> tuple[Root, ...]:
    """Return what is exported to whom."""
    by_path: dict[str, list[Node]] = {}
    for node in nodes:
        by_path.setdefault(server.root_of(node), []).append(node)
    return tuple(
        # The same for the same place, and not one of the small numbers that people give.
        Root(
            path,
            tuple(group),
            str(uuid.uuid5(uuid.NAMESPACE_URL, f"nfs://{server.address.ip}{path}")),
        )
        for path, group in by_path.items()
    )


def entry_name(node: Node) -> str:
    """Return the name under which pxelinux looks for a node's file: 01 is Ethernet (ARP)."""
    return "01-" + str(node.mac).replace(":", "-")


def files(cluster: Cluster, build: Artifacts, server: Head, config: str) -> tuple[Wanted, ...]:
    """Return all files, their paths starting at the directory they are written to.

    etc/ is for the head node, tftp/ what it serves, root/ what goes into the nodes' root.

    :raises InputError: see ``check`` and ``kernel_line``; or the build is damaged.
    """
    check(cluster, build, config, server)
    nodes, kernel = cluster.selected, f"vmlinuz-{build.kernel_release}"
    exported = roots(nodes, server)
    values = {
        "session": cluster.session,
        "head": server.address.ip,
        "interface": server.interface,
        "network": server.address.network.network_address,
        "netmask": server.address.netmask,
        "tftp": server.tftp,
        "place": PLACE,
        "nodes": [_row(node) for node in nodes],
        "roots": exported,
        "kernel": kernel,
        "kernel_release": build.kernel_release,
        "kernel_version": re.split("[^0-9.]", build.kernel_release)[0],
        "loader": LOADER,
        "shared": "%s" not in server.root,
        "root": server.root,
        "drivers": built_in_drivers(config),
        "autonodeid": has_autonodeid(config),
    }
    found = [
        _text(f"/{name}", f"diskless/{template}.j2", values)
        for name, template in (
            ("README.txt", "README.txt"),
            ("dnsmasq.conf", "dnsmasq.conf"),
            ("krg-diskless.service", "krg-diskless.service"),
            ("krg-diskless.exports", "exports"),
            ("ganesha.conf", "ganesha.conf"),
        )
    ]
    for node in nodes:
        arguments = kernel_line(node, cluster, server, kernel)
        found.append(
            _text(
                f"/tftp/pxelinux.cfg/{entry_name(node)}",
                "diskless/pxelinux.j2",
                {**values, "node": node, "arguments": arguments},
            )
        )
    settings = render("default_kerrighed.j2", legacy_sched=cluster.legacy_sched)
    script = render("kerrighed.init.j2", packaged=True)
    found += [
        text_wanted("/root/etc/kerrighed_nodes", cluster.nodes_file().encode()),
        text_wanted("/root/etc/default/kerrighed", settings.encode()),
        text_wanted("/root/etc/init.d/kerrighed", script.encode(), 0o755),
    ]
    for one in build_files(build):
        found.append(_moved(one, f"/root{one.path}"))
        if one.path == f"/boot/{kernel}":
            found.append(_moved(one, f"/tftp/{kernel}"))
    return tuple(found)


def _row(node: Node) -> dict[str, object]:
    return {
        "name": node.name,
        "label": _label(node),
        "id": node.id,
        "mac": node.mac,
        "address": node.address,
        "entry": entry_name(node),
    }


def _text(path: str, template: str, values: dict[str, object]) -> Wanted:
    return text_wanted(path, render(template, **values).encode())


def _moved(one: Wanted, path: str) -> Wanted:
    return Wanted(
        path, one.sha256, one.size, one.mode, one.content, source=one.source, target=one.target
    )
