# SPDX-License-Identifier: GPL-2.0-or-later
"""Carries a deployment out over a fleet: wave by wave the files, then the boots.

Within a wave all files are in place before the first node restarts: where the nodes are one
running cluster, the loss of one stops the others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from provision import boot
from provision.boot import Limits, Result, Trial
from provision.cluster import Node
from provision.deploy import Outcome, Target, apply_plans
from provision.errors import KrgError
from provision.events import Journal
from provision.fleet import Fleet
from provision.rollout import Pace, roll, waves
from provision.steps import Step, Tell, Wave


@dataclass(frozen=True)
class Way:
    """How a deployment is carried out: the pace, and how long a boot may take."""

    pace: Pace
    limits: Limits


def carry_out(
    target: Target,
    among: Fleet,
    seen: Mapping[str, Outcome],
    way: Way,
    journal: Journal,
    tell: Tell,
) -> dict[str, Outcome]:
    """Carry out the plans and boots of the nodes that would change; return all outcomes.

    :param tell: takes an event for each step of a node, and for each wave.
    """
    done = dict(seen)
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    begun = [name for name, outcome in seen.items() if outcome.state == "would change"]
    for name, outcome in seen.items():
        if outcome.state != "would change":
            journal.write("ended", name, state=outcome.state, error=outcome.error)

    order = waves(begun, way.pace)

    def work(names: Sequence[str]) -> Iterator[tuple[str, bool]]:
        tell(Wave(order.index(tuple(names)) + 1, len(order)))
        for name in names:
            journal.write("planned", name)
        release = target.build.kernel_release
        done.update(apply_plans(release, among, {n: done[n] for n in names}, tell, date))
        if target.reboot:
            _boots(target, among, done, names, way, date, journal, tell)
        for name in names:
            outcome = done[name]
            journal.write("ended", name, state=outcome.state, error=outcome.error)
            yield name, not outcome.bad

    before = sum(1 for outcome in seen.values() if outcome.bad)
    for name, why in roll(begun, way.pace, work, failed_before=before):
        done[name] = replace(done[name], state="not begun", error=why, hint="run deploy again")
        tell(Step(name, "not begun"))
        journal.write("ended", name, state="not begun", error=why)
    return done


def _boots(
    target: Target,
    among: Fleet,
    done: dict[str, Outcome],
    names: Sequence[str],
    way: Way,
    date: str,
    journal: Journal,
    tell: Tell,
) -> None:
    """Boot the nodes of a wave whose files are in place."""
    ready = [done[name] for name in names if done[name].boot is not None and not done[name].bad]
    bad = [name for name in names if done[name].bad]
    if target.whole_cluster and bad:
        for outcome in ready:
            done[outcome.node.name] = replace(
                outcome,
                state="not begun",
                error=f"not restarted: {bad[0]} failed, and the cluster restarts as a whole",
            )
            tell(Step(outcome.node.name, "not begun"))
        return
    release = target.build.kernel_release
    trial = Trial(target.cluster, release, target.module, way.limits, target.service)

    def one(node: Node) -> Result:
        def step(text: str) -> None:
            journal.write(text, node.name)
            tell(Step(node.name, text))

        what = done[node.name].boot
        assert what is not None
        if what.action == "prove":
            with among.again(node) as session:
                now = session.facts([], running=True, idle=60.0)
            return boot.judge(among, trial, node, now, date, step)
        among.session(node).close()
        return boot.trial(among, trial, node, what.switch, date, step)

    for node, answer in among.each([outcome.node for outcome in ready], one):
        result = (
            Result("failed", error=answer.message, hint=answer.hint)
            if isinstance(answer, KrgError)
            else answer
        )
        done[node.name] = replace(
            done[node.name],
            state=result.state,
            error=result.error,
            hint=result.hint,
            result=result,
        )
        tell(Step(node.name, result.state, result.error or ""))
