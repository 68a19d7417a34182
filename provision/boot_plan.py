# SPDX-License-Identifier: GPL-2.0-or-later
"""What booting a node would take, and how people read it: from facts, before anything is done."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from provision import boot_entry, deadman, evidence
from provision.boot_entry import File, Switch
from provision.cluster import Node
from provision.errors import FailedError
from provision.facts import Facts, Text
from provision.plan import Plan, Wanted, changes, diff, text_wanted


@dataclass(frozen=True)
class Boot:
    """What is done after a node's files are in place.

    ``action``: "trial" (boot once into our entry, make it the default when proven), "restart"
    (ours is the default already), "prove" (the kernel runs already, but is not the default).
    ``switch`` is the arming for a trial, as it was printed; ``texts`` say it to people.
    """

    action: str
    switch: Switch
    texts: tuple[str, ...]


def wanted(file: File) -> Wanted:
    """Return a switch's file as plans have it."""
    if file.target is None:
        return text_wanted(file.path, file.content, file.mode)
    digest = hashlib.sha256(b"").hexdigest()
    return Wanted(file.path, digest, 0, file.mode, target=file.target)


def after(plan: Plan, facts: Facts) -> Facts:
    """Return the facts as they will be once a plan's texts are in place."""
    texts = dict(facts.texts)
    for change in plan.changes:
        content = change.wanted.content
        if content is None:
            continue
        old = change.before
        owner = (old.uid, old.gid) if isinstance(old, Text) else (0, 0)
        texts[change.wanted.path] = Text(content, change.mode, *owner, change.place)
    return replace(facts, texts=texts)


def make(
    node: Node,
    facts: Facts,
    plan: Plan,
    *,
    kernel_release: str,
    whole_cluster: bool,
    force: Collection[str],
    alone: int,
    service: str | None = None,
) -> Boot | None:
    """Return how the node is to be booted; None if it runs as wanted and nothing changes.

    :param whole_cluster: all nodes of a running cluster are restarted together.
    :param alone: how many seconds a trial stays up without being confirmed.
    :param service: the script that loads the release's module; None: there is none.
    :raises FailedError: it cannot be booted without harm, or without a way back; says why.
    """
    if boot_entry.loader(facts, node.boot_loader) == "none":
        raise FailedError(
            'has boot_loader = "none" in the cluster file: nothing here can have it boot the build',
            hint="restart it in your own way, then: krg-provision verify",
        )
    state = boot_entry.state(facts, kernel_release, node)
    runs = facts.word("kernel") == kernel_release
    together = evidence.in_running_cluster(facts)
    # Of a cluster that lost a node, that node is up again and not in it, and would keep the
    # next start from ever ending: whoever has Kerrighed loaded is restarted with the others.
    again = whole_cluster and evidence.kerrighed_runs(facts)
    if runs and plan.settled and state == "default" and not again:
        return None
    if runs and plan.settled and state != "default":
        return Boot("prove", Switch(), (f"{kernel_release} runs already: make it the default",))
    if together and not whole_cluster and "running-cluster" not in force:
        online = evidence.counts(facts).get("online")
        raise FailedError(
            f"is one of {online or 'several'} nodes of a running Kerrighed cluster, which does not "
            "survive the loss of one",
            hint="restart all of them: --whole-cluster; or --force running-cluster",
        )
    later = after(plan, facts)
    if boot_entry.state(later, kernel_release, node) == "default":
        text = f"restart into {kernel_release}, the default entry; there is no way back from it"
        return Boot("restart", Switch(), (text,))
    switch = deadman.arm(later, kernel_release, node, alone, service)
    against = [str(refusal) for refusal in switch.refusals if refusal.rule not in force]
    if against:
        raise FailedError("; ".join(against))
    texts = (
        *_texts(later, switch, facts, kernel_release),
        *deadman.texts(facts, switch, node, alone),
    )
    return Boot("trial", switch, texts)


def _texts(later: Facts, switch: Switch, facts: Facts, kernel_release: str) -> Iterator[str]:
    yield (
        f"restart once into {kernel_release}; back to {facts.word('kernel')} at the next start "
        "unless it proves itself, then it becomes the default"
    )
    yield from (f"run {command}" for command in switch.first)
    for change in changes(map(wanted, switch.texts), later):
        if change.wanted.target is not None:
            yield f"add {change.place} -> {change.wanted.target}"
        # The script is ours and the same everywhere: whole, it would hide the rest.
        elif change.before is None and change.place == deadman.SCRIPT:
            yield f"add {change.place} ({change.wanted.size:,} bytes)"
        else:
            yield diff(change)
    yield from (f"note: {note}" for note in switch.notes)
