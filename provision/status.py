# SPDX-License-Identifier: GPL-2.0-or-later
"""What every node runs, from one round trip each.

Only what cannot hang is read: /sys/kerrighed and, last and with a time limit,
/proc/nodes/nrnodes. After a node was lost, ps and most of /proc block for ever on the others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from provision import node_packages
from provision.artifacts import Artifacts
from provision.boot_entry import has_loader
from provision.cluster import Cluster, Node
from provision.deploy import Target, installed, make_plan
from provision.errors import KrgError
from provision.facts import Facts
from provision.fleet import fleet


@dataclass(frozen=True)
class Status:
    """One node: what it answered, and how that fits the cluster file and the build."""

    node: Node
    error: str | None = None
    hint: str | None = None
    kernel: str | None = None
    boot_id: str | None = None
    node_id: int | None = None
    session_id: int | None = None
    counts: tuple[tuple[str, int], ...] = ()
    build: str = "unknown"
    findings: tuple[str, ...] = ()

    @property
    def loaded(self) -> bool:
        """Tell whether the module is loaded."""
        return self.node_id is not None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,6}", text) else None


def read(cluster: Cluster, node: Node, facts: Facts, target: Target | None) -> Status:
    """Return the status that a node's facts amount to."""
    node_id, session = _number(facts.word("node_id")), _number(facts.word("session_id"))
    findings = []
    if node_id is not None and node_id != node.id:
        findings.append(f"runs as node {node_id}, the cluster file says {node.id}")
    if session is not None and session != cluster.session:
        findings.append(f"runs in session {session}, the cluster file says {cluster.session}")
    if not facts.complete:
        findings.append("stopped answering while it was asked for its cluster")
    words = re.findall(r"([A-Z]+): *([0-9]{1,6})\b", facts.word("nrnodes") or "")
    return Status(
        node,
        kernel=facts.word("kernel"),
        boot_id=facts.word("boot_id"),
        node_id=node_id,
        session_id=session,
        counts=tuple((name.lower(), int(count)) for name, count in words),
        build=_build(target, node, facts),
        findings=tuple(findings),
    )


def _build(target: Target | None, node: Node, facts: Facts) -> str:
    """Say in a word or two how what is installed compares with the build."""
    if target is None or not facts.complete:
        return "unknown"
    release = target.build.kernel_release
    if node_packages.read(facts).version(f"linux-image-{release}") != "-":
        return "running" if facts.word("kernel") == release else "installed"
    if all(path not in facts.files for path in target.paths):
        return "not installed"
    # A node without GRUB Legacy is compared by its files.
    plan = make_plan(replace(target, bootloader=has_loader(facts)), node, facts)
    if plan.problems:
        return "cannot tell"
    if plan.changes:
        count = len(plan.changes)
        return f"{count} file{'s' if count > 1 else ''} differ{'' if count > 1 else 's'}"
    return "running" if facts.word("kernel") == release else "installed"


def ask(
    cluster: Cluster,
    build: Artifacts | None,
    forks: int,
    idle: float,
    *,
    debug: bool = False,
) -> tuple[Status, ...]:
    """Ask every node; one that cannot be reached has ``error`` set.

    :param idle: seconds of silence after which a node's answer is taken as it is: the
        script prints as it goes, so what hangs is what comes next.

    :raises InputError: the build is damaged.
    """
    target = None
    if build is not None:
        target = installed(cluster, build)
    paths = [] if target is None else target.paths
    found: dict[str, Status] = {}
    with fleet(cluster.selected, forks, debug=debug) as among:

        def one(node: Node) -> Facts:
            session = among.session(node).__enter__()
            module = None if target is None else target.module
            return session.facts(paths, running=True, packages=True, module=module, idle=idle)

        for node, answer in among.each(cluster.selected, one):
            if isinstance(answer, KrgError):
                found[node.name] = Status(node, error=answer.message, hint=answer.hint)
            else:
                found[node.name] = read(cluster, node, answer, target)
    return tuple(found[node.name] for node in cluster.selected)


def as_json(status: Status) -> dict[str, Any]:
    """Return a status as values for JSON."""
    return {
        "name": status.node.name,
        "address": status.node.address,
        "reached": status.error is None,
        "error": status.error,
        "hint": status.hint,
        "kernel": status.kernel,
        "boot_id": status.boot_id,
        "module_loaded": status.loaded,
        "node_id": status.node_id,
        "session_id": status.session_id,
        "nodes": dict(status.counts),
        "build": status.build,
        "findings": list(status.findings),
    }


def rows(statuses: Sequence[Status]) -> list[tuple[str, ...]]:
    """Return the lines of the table people see; the first is its head."""
    table: list[tuple[str, ...]] = [
        ("NODE", "REACHED", "KERNEL", "NODE_ID", "SESSION", "ONLINE", "PRESENT", "BUILD")
    ]
    for status in statuses:
        if status.error is not None:
            table.append((status.node.name, "no", *("-",) * 6))
            continue
        counts = dict(status.counts)
        ids = ("-" if n is None else str(n) for n in (status.node_id, status.session_id))
        table.append(
            (
                status.node.name,
                "yes",
                status.kernel or "-",
                *ids,
                str(counts.get("online", "-")),
                str(counts.get("present", "-")),
                status.build,
            )
        )
    return table
