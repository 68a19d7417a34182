# SPDX-License-Identifier: GPL-2.0-or-later
"""What proves that a node runs what was deployed to it: values in, evidence out.

Only what cannot hang is looked at: after a node of a running Kerrighed cluster was lost, ps
and most of /proc block for ever on the others, /sys/kerrighed and /proc/nodes/nrnodes do not.
Other modules show their ids in a directory of their own (a release's [module]).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provision import module as modules
from provision.cluster import Cluster, Node
from provision.facts import Facts
from provision.module import Module


@dataclass(frozen=True)
class Evidence:
    """One thing that was looked at: what, where, wanted, seen, and whether it is right."""

    what: str
    where: str
    want: str
    have: str
    ok: bool


def _same(what: str, where: str, want: str, have: str | None) -> Evidence:
    return Evidence(what, where, want, have or "-", want == have)


def counts(facts: Facts) -> Mapping[str, int]:
    """Return the numbers of /proc/nodes/nrnodes by name: possible, present, online."""
    words = re.findall(r"([A-Za-z]+): *([0-9]{1,6})\b", facts.word("nrnodes") or "")
    return {name.lower(): int(count) for name, count in words}


def kerrighed_runs(facts: Facts) -> bool:
    """Tell whether the node runs Kerrighed, and no module that shows its ids elsewhere."""
    ids = facts.word("ids")
    return facts.word("node_id") is not None and (ids is None or ids == modules.kerrighed().ids)


def in_running_cluster(facts: Facts) -> bool:
    """Tell whether rebooting this node harms others: it is one of several online.

    A node that no longer answers when asked for its cluster counts as one.
    """
    if not kerrighed_runs(facts):
        return False
    return not facts.complete or counts(facts).get("online", 0) > 1


def of_node(
    cluster: Cluster, node: Node, kernel_release: str, module: Module | None, facts: Facts
) -> tuple[Evidence, ...]:
    """Return what a node's facts prove: kernel, its command line, the module with its ids.

    :param module: the build's; None when it has none, and none is looked for.
    """
    ids = f"node {node.id}, session {cluster.session}"
    found = [_same("kernel booted", node.name, kernel_release, facts.word("kernel"))]
    words = (facts.word("cmdline") or "").split()
    given = {
        name: next((w.partition("=")[2] for w in words if w.startswith(f"{name}=")), "-")
        for name in ("node_id", "session_id")
    }
    seen = f"node {given['node_id']}, session {given['session_id']}"
    found.append(_same("command line", node.name, ids, seen))
    if module is not None:
        numbers = [facts.word("node_id"), facts.word("session_id")]
        # Another module may show its ids, too.
        there = facts.word("ids") in (None, module.ids) and None not in numbers
        have = f"node {numbers[0]}, session {numbers[1]}" if there else None
        found.append(_same("module loaded", node.name, ids, have))
        present = counts(facts).get("present")
        if present is not None:
            # How many there are yet is no fault of this node.
            found.append(Evidence("peers seen", node.name, "any", str(present - 1), True))
    return tuple(found)


def as_json(items: Sequence[Evidence]) -> list[dict[str, Any]]:
    """Return evidence as values for JSON."""
    return [
        {"what": i.what, "where": i.where, "want": i.want, "have": i.have, "ok": i.ok}
        for i in items
    ]


def rows(items: Sequence[Evidence]) -> list[tuple[str, ...]]:
    """Return the lines of the table people see; the first is its head."""
    table: list[tuple[str, ...]] = [("", "what", "where", "wanted", "seen")]
    table += [("ok" if i.ok else "no", i.what, i.where, i.want, i.have) for i in items]
    return table
