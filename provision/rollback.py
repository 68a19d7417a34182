# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes back to what they were: their journals and facts, a plan for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from provision.cluster import Node
from provision.deploy import Outcome
from provision.errors import KrgError
from provision.facts import Facts
from provision.fleet import Fleet
from provision.journal import rollback


@dataclass(frozen=True)
class Wish:
    """What is asked for: since when, and the rules that refuse nothing."""

    since: str | None = None
    force: frozenset[str] = frozenset()


def observe(nodes: Sequence[Node], among: Fleet, wish: Wish) -> dict[str, Outcome]:
    """Connect to every node, read what was done to it and make its plan; one round trip each."""

    def ask(node: Node) -> Facts:
        return among.session(node).__enter__().facts((), journals=True, idle=180.0)

    found: dict[str, Outcome] = {}
    for node, answer in among.each(nodes, ask):
        if isinstance(answer, KrgError):
            found[node.name] = Outcome(node, "failed", error=answer.message, hint=answer.hint)
            continue
        plan = rollback(node, answer, since=wish.since, force=wish.force)
        if plan.problems:
            error = "; ".join(plan.problems)
            found[node.name] = Outcome(node, "failed", plan, answer, error=error)
        else:
            state = "unchanged" if plan.empty else "would change"
            found[node.name] = Outcome(node, state, plan, answer)
    return {node.name: found[node.name] for node in nodes}
