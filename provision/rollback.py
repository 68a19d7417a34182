# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes back to what they were: their journals and facts, a plan for each, and the way back.

A node that runs the kernel that is to go is first restarted into the entry that was the
default before ours; what was printed is carried out only when another kernel has come up.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from provision import boot, boot_entry, deadman, evidence, node_packages, retire
from provision.boot import Limits
from provision.cluster import Node
from provision.deploy import Outcome, apply_plans, seen_as
from provision.errors import FailedError, KrgError
from provision.facts import Facts
from provision.fleet import Fleet
from provision.journal import rollback, running
from provision.plan import Plan
from provision.rollout import Pace, roll, waves
from provision.steps import Step, Tell, Wave


@dataclass(frozen=True)
class Wish:
    """What is asked for: since when, and the rules that refuse nothing.

    With ``reboot`` nodes are restarted where they have to be, with ``whole_cluster`` all at once.
    """

    since: str | None = None
    force: frozenset[str] = frozenset()
    reboot: bool = False
    whole_cluster: bool = False


def leaves(outcome: Outcome) -> bool:
    """Tell whether a node has to be restarted before its plan can be carried out."""
    if outcome.plan is None or outcome.facts is None:
        return False
    if outcome.facts.word("kernel") in _going(outcome.plan):
        return True
    return any(running(outcome.plan.changes, outcome.facts))


def _planned(node: Node, facts: Facts, wish: Wish) -> Outcome:
    plan = rollback(node, facts, since=wish.since, force=wish.force, leaves=wish.reboot)
    plan = retire.checked(plan, facts, node)
    if plan.problems:
        return Outcome(node, "failed", plan, facts, error="; ".join(plan.problems))
    made = Outcome(node, "unchanged" if plan.empty else "would change", plan, facts)
    if leaves(made) and evidence.in_running_cluster(facts) and not wish.whole_cluster:
        return replace(
            made,
            state="failed",
            error="is one of the nodes of a running Kerrighed cluster, which does not survive the "
            "loss of one",
            hint="restart all of them: --whole-cluster",
        )
    return made


def observe(
    nodes: Sequence[Node], among: Fleet, wish: Wish, tell: Tell = lambda _: None
) -> dict[str, Outcome]:
    """Connect to every node, read what was done to it and make its plan; one round trip each."""

    def ask(node: Node) -> Facts:
        tell(Step(node.name, "asked"))
        session = among.session(node).__enter__()
        return session.facts((), journals=True, running=wish.reboot, idle=180.0)

    found: dict[str, Outcome] = {}
    for node, answer in among.each(nodes, ask):
        if isinstance(answer, KrgError):
            found[node.name] = Outcome(node, "failed", error=answer.message, hint=answer.hint)
        else:
            found[node.name] = _planned(node, answer, wish)
        tell(seen_as(found[node.name]))
    return {node.name: found[node.name] for node in nodes}


def pace(wish: Wish) -> Pace:
    """Return how nodes that are restarted follow each other: one by one, or all at once."""
    return Pace(0, None, 0) if wish.whole_cluster else Pace(0, 1, 0)


def _failed(outcome: Outcome, error: KrgError) -> Outcome:
    return replace(outcome, state="failed", error=error.message, hint=error.hint)


def carry_back(
    among: Fleet, seen: Mapping[str, Outcome], wish: Wish, limits: Limits, tell: Tell
) -> dict[str, Outcome]:
    """Carry out the plans; nodes that run what is to go are restarted first. Return all outcomes.

    :param tell: takes an event for each step of a node, and for each wave of restarts.
    """
    at_once = {name: o for name, o in seen.items() if not leaves(o)}
    done = {**seen, **apply_plans("", among, at_once, tell)}
    going = [n for n, o in seen.items() if o.state == "would change" and n not in at_once]

    order = waves(going, pace(wish))

    def work(names: Sequence[str]) -> Iterator[tuple[str, bool]]:
        def one(node: Node) -> Outcome:
            return _leave_and_go_back(among, seen[node.name], wish, limits, tell)

        tell(Wave(order.index(tuple(names)) + 1, len(order)))

        for node, answer in among.each([seen[name].node for name in names], one):
            outcome = answer if isinstance(answer, Outcome) else _failed(seen[node.name], answer)
            done[node.name] = outcome
            tell(Step(node.name, outcome.state, outcome.error or ""))
            yield node.name, not outcome.bad

    for name, why in roll(going, pace(wish), work):
        done[name] = replace(done[name], state="not begun", error=why, hint="run rollback again")
        tell(Step(name, "not begun"))
    return done


def _going(plan: Plan) -> frozenset[str]:
    """Return the kernel releases that a plan removes: none of them may be booted before it."""
    start = "/boot/vmlinuz-"
    files = frozenset(
        change.place.removeprefix(start)
        for change in plan.changes
        if change.wanted.absent and change.place.startswith(start)
    )
    return files.union(*(node_packages.purges(command) for command in plan.first))


def _leave_and_go_back(
    among: Fleet, outcome: Outcome, wish: Wish, limits: Limits, tell: Tell
) -> Outcome:
    """Restart one node into the entry that was the default, then carry out its plan."""
    node, printed = outcome.node, outcome.plan
    assert printed is not None
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    among.session(node).close()
    with among.again(node) as session:
        # A trial that a killed deploy has left would restart the node once more.
        deadman.settle(session)
        facts = session.facts((), running=True, idle=60.0)
        release = facts.word("kernel") or ""
        going = _going(printed)
        plan = boot.switch_plan(node, boot_entry.disarm(facts, release, node, going), facts)
        if not plan.empty:
            session.apply(plan, "", date)
        tell(Step(node.name, "restarting"))
        marked = boot.restart(session, facts)
    now, last = boot.wait(among, node, facts, limits, marked=marked)
    if now is None:
        return replace(
            outcome,
            state="down",
            error=f"did not come back within {limits.boot:g} s ({last}); nothing was taken back",
            hint="restart it by its power switch, then run rollback again",
        )
    if now.word("kernel") == release:
        raise FailedError(f"came back with {release}, which is to go; nothing was taken back")
    tell(Step(node.name, "up with", now.word("kernel") or ""))
    with among.again(node) as session:
        fresh = session.facts((), journals=True, idle=180.0)
        again = rollback(node, fresh, since=wish.since, force=wish.force)
        again = retire.checked(again, fresh, node)
        if again.problems:
            raise FailedError("; ".join(again.problems))
        more = {c.place for c in again.changes} - {c.place for c in printed.changes}
        if more:
            raise FailedError(
                f"{min(more)} would change, too, which was not printed; nothing was taken back",
                hint="run rollback again to see the new plan",
            )
        session.apply(again, "", date)
    return replace(outcome, state="changed")
