# SPDX-License-Identifier: GPL-2.0-or-later
"""Carries a deployment out over a fleet: wave by wave the files, then the boots.

Within a wave all files are in place before the first node restarts: where the nodes are one
running cluster, the loss of one stops the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from provision import boot, deploy
from provision.boot import Limits, Result, Trial
from provision.cluster import Node
from provision.deploy import Outcome, Say, Target
from provision.errors import KrgError
from provision.events import Journal
from provision.fleet import Fleet
from provision.rollout import Pace, roll


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
    say: Say,
    on_sent: Callable[[int], None] = lambda _: None,
) -> dict[str, Outcome]:
    """Carry out the plans and boots of the nodes that would change; return all outcomes.

    :param say: takes one line for each step of a node.
    """
    done = dict(seen)
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    begun = [name for name, outcome in seen.items() if outcome.state == "would change"]
    for name, outcome in seen.items():
        if outcome.state != "would change":
            journal.write("ended", name, state=outcome.state, error=outcome.error)

    def work(names: Sequence[str]) -> Iterator[tuple[str, bool]]:
        for name in names:
            journal.write("planned", name)
        done.update(deploy.apply(target, among, {n: done[n] for n in names}, say, on_sent, date))
        if target.reboot:
            _boots(target, among, done, names, way, date, journal, say)
        for name in names:
            outcome = done[name]
            journal.write("ended", name, state=outcome.state, error=outcome.error)
            yield name, not outcome.bad

    before = sum(1 for outcome in seen.values() if outcome.bad)
    for name, why in roll(begun, way.pace, work, failed_before=before):
        done[name] = replace(done[name], state="not begun", error=why, hint="run deploy again")
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
    say: Say,
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
        return
    trial = Trial(target.cluster, target.build.kernel_release, target.module, way.limits)

    def one(node: Node) -> Result:
        def step(text: str) -> None:
            journal.write(text, node.name)
            say(f"{node.name}: {text}")

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
        say(f"{node.name}: {result.state}")
