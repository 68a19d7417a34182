# SPDX-License-Identifier: GPL-2.0-or-later
"""A build onto nodes: what a node shall have, and the way from facts to plan to change.

Sources: Kerrighed 2.4.4's reading of its parameters and files. What a node must be able to
do is in preflight.py, the boot entry in boot_entry.py.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from provision import (
    boot_entry,
    boot_plan,
    disk_rules,
    evidence,
    journal,
    module_files,
    node_packages,
    node_rules,
    preflight,
    retire,
)
from provision.artifacts import Artifacts
from provision.boot import Limits, Result
from provision.boot_plan import Boot
from provision.build_files import build_files
from provision.cluster import Cluster, Node, check_against_kernel, has_autonodeid
from provision.disk_rules import Drivers
from provision.errors import FailedError, InputError, KrgError
from provision.facts import Facts
from provision.fleet import Fleet
from provision.module import Module
from provision.node import ChangedError
from provision.node_packages import Package
from provision.package_cache import unneeded
from provision.plan import (
    Plan,
    Wanted,
    as_plan_json,
    changes,
    fold,
    lack_of_space,
    made_from,
    obstacles,
    size,
    text_wanted,
)
from provision.preflight import Kernel
from provision.ssh import check_access
from provision.steps import Note, Planned, Sent, Step, Tell
from provision.unchanged import Memory

# --- what a node shall have ---------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """What is deployed: a build with its .config, for a cluster.

    ``bootloader`` off leaves the boot loader alone; ``force`` names rules that refuse no node.
    With ``reboot`` nodes are restarted into the build, with ``whole_cluster`` all at once.
    """

    cluster: Cluster
    build: Artifacts
    files: tuple[Wanted, ...]
    config: str
    bootloader: bool = True
    force: frozenset[str] = frozenset()
    reboot: bool = False
    whole_cluster: bool = False
    packages: tuple[Package, ...] = ()
    limits: Limits = field(default_factory=Limits)

    @property
    def module(self) -> Module | None:
        """Return the build's module."""
        return self.build.module

    @property
    def service(self) -> str | None:
        """Return the name of the script that loads the module; a package may bring it."""
        module = self.module
        if module is None:
            return None
        return module.name if self.packages else module.service

    @property
    def paths(self) -> list[str]:
        """Return the paths a node is asked about."""
        wanted = (*self.files, *(one.file for one in self.packages))
        return [*(one.path for one in wanted), *retire.LINKS]

    @functools.cached_property
    def settings(self) -> Mapping[bool, tuple[Wanted, ...]]:
        """Return the texts that are the same on all nodes, without and with packages."""
        return {
            packaged: module_files.texts(self.module, self.cluster, packaged=packaged)
            for packaged in (False, True)
        }


def target(
    cluster: Cluster,
    build: Artifacts,
    *,
    bootloader: bool = True,
    force: Iterable[str] = (),
    reboot: bool = False,
    whole_cluster: bool = False,
    packages: Path | None = None,
    limits: Limits | None = None,
) -> Target:
    """Check that build and cluster fit together, and that both can be used.

    :raises InputError: damaged build, an id the kernel does not take, an unreadable key.
    """
    made = installed(cluster, build, bootloader=bootloader, force=force)
    check_against_kernel(cluster, made.config)
    check_access(cluster.selected)
    if reboot and not bootloader:
        raise InputError("--reboot needs our boot entry: leave --no-bootloader out")
    if whole_cluster and cluster.selected != cluster.nodes:
        raise InputError(
            f"--whole-cluster restarts all {len(cluster.nodes)} nodes, and {len(cluster.selected)} "
            "are chosen",
            hint="name the cluster file with --nodes, without --exclude",
        )
    debs = () if packages is None else node_packages.load(packages, build)
    return replace(
        made, reboot=reboot, whole_cluster=whole_cluster, packages=debs, limits=limits or Limits()
    )


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


@functools.lru_cache(maxsize=8)
def _drivers(directory: Path, kernel_release: str) -> Drivers | None:
    """Return what a build's drivers take; None when it cannot be read out of it."""
    from kconfig import built
    from kconfig.errors import KconfigError
    from provision import vmlinux

    try:
        modules = built.load(directory / "lib/modules" / kernel_release)
        inside = vmlinux.aliases(directory / "vmlinux")
    except (KconfigError, InputError, OSError):
        return None
    return Drivers(inside=(*inside, *(modules.inside or ())), modules=modules.modules)


def _kernel(target: Target, facts: Facts) -> Kernel:
    build = target.build
    # Reading them takes a moment, for nothing where a node told no devices.
    drivers = _drivers(build.directory, build.kernel_release) if facts.pci else None
    return Kernel(build.arch, build.kernel_release, target.config, drivers)


def _notes(target: Target, facts: Facts) -> Iterator[str]:
    if evidence.kerrighed_runs(facts):
        yield (
            "Kerrighed is running, and the new files take effect at the next boot. Rebooting "
            "this node alone harms all nodes of its cluster: stop or reboot the whole cluster"
        )
    yield from module_files.notes(target.module, facts)
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
                title=target.module.title if target.module else "Linux",
            )
    except FailedError as error:
        problems.append(error.message + (f" ({error.hint})" if error.hint else ""))
    kernel = _kernel(target, facts)
    found = list(
        preflight.check(kernel, target.cluster.nodes, node, facts, bootloader=target.bootloader)
    )
    found += disk_rules.of_entry(entry.refusals, target.config) if entry is not None else ()
    refusals = [str(refusal) for refusal in found if refusal.rule not in target.force]
    notes = [
        *(entry.notes if entry is not None else ()),
        *preflight.notes(kernel, node, facts),
        *_notes(target, facts),
    ]
    if target.bootloader:
        problems += refusals
    else:
        # Nothing boots it there: what speaks against booting it is good to know.
        notes += refusals
    packages = target.packages if facts.word("dpkg_architecture") is not None else ()
    texts = target.settings[bool(packages)]
    texts += tuple(text_wanted(f.path, f.content, f.mode) for f in (entry.texts if entry else ()))
    part = node_packages.Part(target.files)
    if packages:
        part = node_packages.part(packages, target.build.kernel_release, facts)
    planned = node_packages.with_theirs(changes((*part.files, *texts), facts))
    problems += part.problems
    notes += part.notes
    if entry is not None and not problems:
        written = planned
        if any(one.is_kernel and one.file in part.files for one in packages):
            # The kernel itself is then written by dpkg.
            written += changes(target.files, facts)
        over = boot_entry.replaced(node, facts, target.build.kernel_release, written)
        problems += [str(refusal) for refusal in over if refusal.rule not in target.force]
    problems += obstacles(planned, facts)
    room = preflight.space(lack_of_space(planned, facts))
    problems += [str(refusal) for refusal in room if refusal.rule not in target.force]
    if problems:
        return Plan(node.name, problems=tuple(problems))
    runs = module_files.enable(target.module, facts, packaged=bool(packages))
    made = Plan(
        node.name,
        planned,
        runs,
        (),
        tuple(notes),
        made_from(facts),
        (*_about(target.build, runs), *part.about),
        checks=part.checks,
        first=part.first,
        prunes=journal.expendable(journal.read(facts)),
        drops=unneeded(packages, facts),
    )
    release = target.build.kernel_release
    return retire.with_retired(made, facts, node, release, bootloader=target.bootloader)


def _about(build: Artifacts, runs: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return what the journal on the node says of this run."""
    return (
        ("command", "deploy"),
        ("build", f"{build.release} {build.arch} {build.build_id}"),
        ("kernel_release", build.kernel_release),
        *(("ran", command) for command in runs),
    )


# --- the way there ------------------------------------------------------------------------


STATES = (
    "unchanged", "would change", "changed", "booted", "not begun", "skipped", "failed",
    "fell back", "unproven", "down",
)  # fmt: skip
_BAD = frozenset(STATES[STATES.index("not begun") :])


@dataclass(frozen=True)
class Outcome:
    """How it stands with one node: ``state`` is one of STATES.

    ``boot`` is what was planned after the files, ``result`` what came of it.
    """

    node: Node
    state: str
    plan: Plan | None = None
    facts: Facts | None = None
    error: str | None = None
    hint: str | None = None
    boot: Boot | None = None
    result: Result | None = None

    @property
    def bad(self) -> bool:
        """Tell whether the node counts as failed."""
        return self.state in _BAD


def _failed(node: Node, error: KrgError, plan: Plan | None = None) -> Outcome:
    state = "skipped" if isinstance(error, ChangedError) else "failed"
    return Outcome(node, state, plan, error=error.message, hint=error.hint)


def _planned(target: Target, node: Node, facts: Facts) -> Outcome:
    plan = make_plan(target, node, facts)
    if plan.problems:
        return Outcome(node, "failed", plan, facts, error="; ".join(plan.problems))
    what = None
    if target.reboot:
        try:
            what = boot_plan.make(
                node,
                facts,
                plan,
                kernel_release=target.build.kernel_release,
                whole_cluster=target.whole_cluster,
                force=target.force,
                alone=target.limits.alone,
                service=target.service,
            )
        except FailedError as error:
            return Outcome(node, "failed", plan, facts, error.message, error.hint)
    state = "unchanged" if plan.empty and what is None else "would change"
    return Outcome(node, state, plan, facts, boot=what)


def observe(
    target: Target,
    among: Fleet,
    nodes: Sequence[Node] | None = None,
    memory: Memory | None = None,
    tell: Tell = lambda _: None,
) -> dict[str, Outcome]:
    """Connect to every node, gather its facts and make its plan; one round trip each.

    :param nodes: those to ask; None: those selected of the cluster.
    :param memory: which had nothing to change the last time: if that still holds for a node,
        it is asked no more. It is brought up to date.
    """
    nodes = target.cluster.selected if nodes is None else nodes
    # Whether a running cluster is restarted is decided by what is not under the seal.
    if target.whole_cluster:
        memory = None

    def ask(node: Node) -> Facts:
        tell(Step(node.name, "asked"))
        session = among.session(node).__enter__()
        return session.facts(
            target.paths,
            running=target.reboot,
            packages=bool(target.packages),
            known="" if memory is None else memory.seal(node.name),
            module=target.module,
            idle=180.0,
        )

    found: dict[str, Outcome] = {}
    for node, answer in among.each(nodes, ask):
        if isinstance(answer, KrgError):
            found[node.name] = _failed(node, answer)
        elif memory is not None and answer.word("same") is not None:
            plan = Plan(node.name, notes=memory.notes(node.name))
            found[node.name] = Outcome(node, "unchanged", plan, answer)
        else:
            found[node.name] = outcome = _planned(target, node, answer)
            if memory is not None and outcome.plan is not None:
                seal = answer.seal if outcome.state == "unchanged" else None
                memory.keep(node.name, seal, outcome.plan.notes)
        tell(seen_as(found[node.name]))
    if memory is not None:
        memory.write()
    return {node.name: found[node.name] for node in nodes}


def seen_as(outcome: Outcome) -> Step | Planned:
    """Return the event that a node's plan is."""
    name, plan = outcome.node.name, outcome.plan
    if outcome.state == "would change" and plan is not None:
        return Planned(name, plan.upload, outcome.boot is not None)
    if outcome.bad and outcome.facts is not None:
        # Many are refused for the same reason: the report says it of all of them.
        return Step(name, "refused")
    return Step(name, outcome.state, outcome.error or "")


def apply_plans(
    kernel_release: str,
    among: Fleet,
    seen: Mapping[str, Outcome],
    tell: Tell,
    date: str | None = None,
) -> dict[str, Outcome]:
    """Carry out the plans of the nodes that would change; return all outcomes.

    :param kernel_release: names the tree in /lib/modules that may be new.
    :param tell: takes an event when a node begins, for each file sent, and when it is done.
    """
    done = dict(seen)
    date = date or time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())

    def change(node: Node) -> float:
        outcome = seen[node.name]
        assert outcome.plan is not None and outcome.facts is not None
        tell(Step(node.name, "sending", size(outcome.plan.upload)))
        started = time.monotonic()
        among.session(node).apply(
            outcome.plan, kernel_release, date, lambda count: tell(Sent(node.name, count))
        )
        return time.monotonic() - started

    nodes = [o.node for o in seen.values() if o.state == "would change" and not _idle(o)]
    try:
        for node, answer in among.each(nodes, change):
            outcome = seen[node.name]
            if isinstance(answer, KrgError):
                done[node.name] = _failed(node, answer, outcome.plan)
                tell(Step(node.name, done[node.name].state, answer.message))
            else:
                done[node.name] = replace(outcome, state="changed")
                tell(Step(node.name, "done", f"in {answer:.1f} s"))
    except KeyboardInterrupt:
        _tell_interrupted([done[node.name] for node in nodes], tell)
        raise
    return done


def _idle(outcome: Outcome) -> bool:
    """Tell whether there is nothing to send to a node: it is only restarted."""
    return outcome.plan is not None and outcome.plan.empty


def _tell_interrupted(outcomes: Sequence[Outcome], tell: Tell) -> None:
    for states, text in (
        (("changed",), "done"),
        (("failed", "skipped"), "failed"),
        (("would change",), "not known to be done; deploy again"),
    ):
        names = [o.node.name for o in outcomes if o.state in states]
        if names:
            tell(Note(f"interrupted: {fold(names)}: {text}"))


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return one line that counts the nodes by state."""
    counts = {s: sum(1 for o in outcomes if o.state == s) for s in STATES}
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
        "boot": None if outcome.boot is None else outcome.boot.action,
        "evidence": [] if outcome.result is None else evidence.as_json(outcome.result.evidence),
        "log": [] if outcome.result is None else list(outcome.result.log),
    }
