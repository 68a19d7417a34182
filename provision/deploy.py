# SPDX-License-Identifier: GPL-2.0-or-later
"""A build onto nodes: what a node shall have, and the way from facts to plan to change.

Sources: Kerrighed 2.4.4's reading of its parameters and files. What a node must be able to
do is in node_rules.py, the boot entry in boot_entry.py.
"""

from __future__ import annotations

import posixpath
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from provision import boot_entry, node_rules
from provision.artifacts import Artifacts, describe_or_none
from provision.cluster import Cluster, Node, check_against_kernel, has_autonodeid
from provision.data import render
from provision.errors import FailedError, InputError, KrgError
from provision.facts import Facts
from provision.fleet import Fleet
from provision.node import ChangedError
from provision.node_rules import Refusal
from provision.plan import (
    Plan,
    Wanted,
    as_plan_json,
    changes,
    fold,
    is_safe_path,
    obstacles,
    size,
    text_wanted,
)
from provision.ssh import check_access

Say = Callable[[str], None]


# --- what a node shall have ---------------------------------------------------------------


def build_files(build: Artifacts) -> tuple[Wanted, ...]:
    """Return the files of a build as they shall lie on a node: modules, tools, then /boot.

    :raises InputError: the build is damaged, incomplete, or has names that cannot be handled.
    """
    release = build.kernel_release
    if not isinstance(release, str) or not re.fullmatch(
        r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", release
    ):
        raise InputError(f"{build.directory}: {release!r} is not a kernel release")
    modules = f"lib/modules/{release}/"
    # They lead to the tree the kernel was built in, which no node has.
    skipped = {modules + "build", modules + "source"}
    named = [
        (f"/{name}", name)
        for name in build.files
        if name.startswith(modules) and name not in skipped
    ]
    named += [
        (f"/usr/local/{name.removeprefix('tools/')}", name)
        for name in build.files
        if name.startswith("tools/")
    ]
    named += [(f"/boot/{n}-{release}", n) for n in ("System.map", "config", "vmlinuz")]
    for path, name in named:
        if name not in build.files:
            raise InputError(f"{build.directory}: the build has no {name}")
        if not is_safe_path(path):
            raise InputError(f"{build.directory}: cannot deploy a file named {name!r}")
    _check_links(build, named, f"/{modules}")
    damaged = [n for _, n in named if describe_or_none(build.path(n)) != build.files[n]]
    if damaged:
        raise InputError(
            f"{build.path(damaged[0])} is not what the build made ({len(damaged)} files differ)",
            hint="build again: krg-provision build-kernel",
        )
    return tuple(_from_build(build, path, name) for path, name in named)


def _check_links(build: Artifacts, named: Sequence[tuple[str, str]], modules: str) -> None:
    """Refuse links that lead out of the build's own directories, and files below a link.

    A node's root would write through them wherever they point.
    """
    links = {path for path, name in named if build.files[name].target is not None}
    for path, name in named:
        target = build.files[name].target
        if target is not None:
            text = str(target)
            place = posixpath.normpath(posixpath.join(posixpath.dirname(path), text))
            area = next((a for a in (modules, "/usr/local/") if path.startswith(a)), None)
            inside = area is not None and f"{place}/".startswith(area)
            if not text or text.startswith("/") or not text.isprintable() or not inside:
                raise InputError(
                    f"{build.directory}: the link {name} leads to {target!r}, out of its place",
                    hint="build again: krg-provision build-kernel",
                )
        parts = path.split("/")
        above = {"/".join(parts[:count]) for count in range(2, len(parts))}
        if above & links:
            raise InputError(
                f"{build.directory}: {name} is below {(above & links).pop()}, which is a link",
                hint="build again: krg-provision build-kernel",
            )


def _from_build(build: Artifacts, path: str, name: str) -> Wanted:
    entry = build.files[name]
    # The builder's umask is no business of the nodes.
    mode = 0o755 if entry.mode & 0o111 else 0o644
    if entry.target is not None:
        return Wanted(path, entry.sha256, entry.size, 0o777, target=entry.target)
    return Wanted(path, entry.sha256, entry.size, mode, source=build.path(name))


@dataclass(frozen=True)
class Target:
    """What is deployed: a build with its .config, for a cluster.

    ``bootloader`` off leaves menu.lst alone; ``force`` names rules that refuse no node.
    """

    cluster: Cluster
    build: Artifacts
    files: tuple[Wanted, ...]
    config: str
    bootloader: bool = True
    force: frozenset[str] = frozenset()

    @property
    def paths(self) -> list[str]:
        """Return the paths a node is asked about."""
        return [wanted.path for wanted in self.files]


def target(
    cluster: Cluster,
    build: Artifacts,
    *,
    bootloader: bool = True,
    force: Iterable[str] = (),
) -> Target:
    """Check that build and cluster fit together, and that both can be used.

    :raises InputError: damaged build, an id the kernel does not take, an unreadable key.
    """
    made = installed(cluster, build, bootloader=bootloader, force=force)
    check_against_kernel(cluster, made.config)
    check_access(cluster.nodes)
    return made


def installed(
    cluster: Cluster,
    build: Artifacts,
    *,
    bootloader: bool = True,
    force: Iterable[str] = node_rules.RULES,
) -> Target:
    """Return what nodes are compared with, whether they should have it or not.

    :raises InputError: damaged build.
    """
    files = build_files(build)
    config = build.path("config").read_text("utf-8", "replace")
    return Target(cluster, build, files, config, bootloader, frozenset(force))


def _texts(target: Target, entry: boot_entry.Entry | None) -> tuple[Wanted, ...]:
    settings = render("default_kerrighed.j2", legacy_sched=target.cluster.legacy_sched)
    found = [
        text_wanted("/etc/kerrighed_nodes", target.cluster.nodes_file().encode()),
        text_wanted("/etc/default/kerrighed", settings.encode()),
        text_wanted(
            "/etc/init.d/kerrighed", render("kerrighed.init.j2", packaged=False).encode(), 0o755
        ),
    ]
    if entry is not None:
        found += [text_wanted(file.path, file.content, file.mode) for file in entry.texts]
    return tuple(found)


def _refusals(target: Target, entry: boot_entry.Entry | None, facts: Facts) -> list[Refusal]:
    """Return the rules that speak against this node, those that were overruled left out."""
    build = target.build
    found = list(node_rules.processor(build.arch, facts))
    found += node_rules.userland(build.arch, build.kernel_release, target.config, facts)
    if entry is not None:
        found += entry.refusals
    return [refusal for refusal in found if refusal.rule not in target.force]


def _notes(target: Target, node: Node, facts: Facts) -> Iterator[str]:
    hostname = facts.word("hostname") or ""
    if hostname and node.name not in (hostname, hostname.split(".")[0]):
        yield (
            "the node calls itself by another name than the cluster file does; the kernel "
            "gets its ids from the boot entry instead of /etc/kerrighed_nodes"
        )
    if facts.word("node_id") is not None:
        yield (
            "Kerrighed is running, and the new files take effect at the next boot. Rebooting "
            "this node alone harms all nodes of its cluster: stop or reboot the whole cluster"
        )
    if not facts.linked and facts.word("tool") != "update-rc.d":
        yield "no update-rc.d: /etc/init.d/kerrighed is not started at boot"
    if not target.bootloader:
        yield "no boot entry is written (--no-bootloader)"


def make_plan(target: Target, node: Node, facts: Facts) -> Plan:
    """Return what has to change on one node; with problems the plan holds nothing to do."""
    problems = []
    if facts.word("uid") != "0":
        problems.append("the login is not root's")
    if facts.lacks:
        problems.append(f"lacks the commands {', '.join(facts.lacks)}")
    entry = None
    try:
        if target.bootloader:
            entry = boot_entry.make(
                node,
                facts,
                session=target.cluster.session,
                kernel_release=target.build.kernel_release,
                autonodeid=has_autonodeid(target.config),
            )
    except FailedError as error:
        problems.append(error.message + (f" ({error.hint})" if error.hint else ""))
    refusals = [str(refusal) for refusal in _refusals(target, entry, facts)]
    notes = [*(entry.notes if entry is not None else ()), *_notes(target, node, facts)]
    if target.bootloader:
        problems += refusals
    else:
        # Nothing boots it there: what speaks against booting it is good to know.
        notes += refusals
    planned = changes((*target.files, *_texts(target, entry)), facts)
    problems += obstacles(planned, facts)
    if problems:
        return Plan(node.name, problems=tuple(problems))
    linked = facts.linked or facts.word("tool") != "update-rc.d"
    runs = () if linked else ("update-rc.d kerrighed defaults",)
    return Plan(node.name, planned, runs, (), tuple(notes))


# --- the way there ------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How it stands with one node: unchanged, would change, changed, skipped or failed."""

    node: Node
    state: str
    plan: Plan | None = None
    facts: Facts | None = None
    error: str | None = None
    hint: str | None = None

    @property
    def bad(self) -> bool:
        """Tell whether the node counts as failed."""
        return self.state in ("failed", "skipped")


def _failed(node: Node, error: KrgError, plan: Plan | None = None) -> Outcome:
    state = "skipped" if isinstance(error, ChangedError) else "failed"
    return Outcome(node, state, plan, error=error.message, hint=error.hint)


def observe(target: Target, among: Fleet) -> dict[str, Outcome]:
    """Connect to every node, gather its facts and make its plan; one round trip each."""

    def ask(node: Node) -> Facts:
        return among.session(node).__enter__().facts(target.paths, idle=180.0)

    found: dict[str, Outcome] = {}
    for node, answer in among.each(target.cluster.nodes, ask):
        if isinstance(answer, KrgError):
            found[node.name] = _failed(node, answer)
            continue
        plan = make_plan(target, node, answer)
        if plan.problems:
            found[node.name] = Outcome(node, "failed", plan, answer, error="; ".join(plan.problems))
        else:
            state = "unchanged" if plan.empty else "would change"
            found[node.name] = Outcome(node, state, plan, answer)
    return {node.name: found[node.name] for node in target.cluster.nodes}


def apply(
    target: Target,
    among: Fleet,
    seen: Mapping[str, Outcome],
    say: Say,
    on_sent: Callable[[int], None] = lambda _: None,
) -> dict[str, Outcome]:
    """Carry out the plans of the nodes that would change; return all outcomes.

    :param say: takes one line when a node begins and when it is done.
    :param on_sent: takes the bytes of every file that was sent, to any node.
    """
    done = dict(seen)
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())

    def change(node: Node) -> float:
        outcome = seen[node.name]
        assert outcome.plan is not None and outcome.facts is not None
        say(f"{node.name}: sending {size(outcome.plan.upload)}")
        started = time.monotonic()
        among.session(node).apply(outcome.plan, target.build.kernel_release, date, on_sent)
        return time.monotonic() - started

    nodes = [o.node for o in seen.values() if o.state == "would change"]
    try:
        for node, answer in among.each(nodes, change):
            outcome = seen[node.name]
            if isinstance(answer, KrgError):
                done[node.name] = _failed(node, answer, outcome.plan)
                say(f"{node.name}: {done[node.name].state}")
            else:
                done[node.name] = replace(outcome, state="changed")
                say(f"{node.name}: done in {answer:.1f} s")
    except KeyboardInterrupt:
        _say_interrupted([done[node.name] for node in nodes], say)
        raise
    return done


def _say_interrupted(outcomes: Sequence[Outcome], say: Say) -> None:
    for states, text in (
        (("changed",), "done"),
        (("failed", "skipped"), "failed"),
        (("would change",), "not known to be done; deploy again"),
    ):
        names = [o.node.name for o in outcomes if o.state in states]
        if names:
            say(f"interrupted: {fold(names)}: {text}")


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return one line that counts the nodes by state."""
    states = ("unchanged", "would change", "changed", "skipped", "failed")
    counts = {s: sum(1 for o in outcomes if o.state == s) for s in states}
    parts = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{len(outcomes)} node{'s' if len(outcomes) != 1 else ''}: {parts}"


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as values for JSON."""
    return {
        "name": outcome.node.name,
        "address": outcome.node.address,
        "state": outcome.state,
        "error": outcome.error,
        "hint": outcome.hint,
        "plan": None if outcome.plan is None else as_plan_json(outcome.plan),
    }
