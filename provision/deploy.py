# SPDX-License-Identifier: GPL-2.0-or-later
"""A build onto nodes: what a node shall have, and the way from facts to plan to change.

Sources: Kerrighed 2.4.4's reading of its parameters and files. What a node must be able to
do is in preflight.py, the boot entry in boot_entry.py.
"""

from __future__ import annotations

import functools
import posixpath
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from provision import boot_entry, boot_plan, evidence, journal, node_packages, node_rules, preflight
from provision.artifacts import Artifacts, describe_or_none
from provision.boot import Result
from provision.boot_plan import Boot
from provision.cluster import Cluster, Node, check_against_kernel, has_autonodeid
from provision.data import render
from provision.disk_rules import Drivers
from provision.errors import FailedError, InputError, KrgError
from provision.facts import Facts
from provision.fleet import Fleet
from provision.node import ChangedError
from provision.node_packages import Package
from provision.plan import (
    Plan,
    Wanted,
    as_plan_json,
    changes,
    fold,
    is_safe_path,
    lack_of_space,
    made_from,
    obstacles,
    size,
    text_wanted,
)
from provision.preflight import Kernel
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

    @property
    def paths(self) -> list[str]:
        """Return the paths a node is asked about."""
        return [wanted.path for wanted in (*self.files, *(one.file for one in self.packages))]

    @functools.cached_property
    def settings(self) -> tuple[Wanted, ...]:
        """Return the texts that are the same on all nodes."""
        settings = render("default_kerrighed.j2", legacy_sched=self.cluster.legacy_sched)
        script = render("kerrighed.init.j2", packaged=False)
        return (
            text_wanted("/etc/kerrighed_nodes", self.cluster.nodes_file().encode()),
            text_wanted("/etc/default/kerrighed", settings.encode()),
            text_wanted("/etc/init.d/kerrighed", script.encode(), 0o755),
        )


def target(
    cluster: Cluster,
    build: Artifacts,
    *,
    bootloader: bool = True,
    force: Iterable[str] = (),
    reboot: bool = False,
    whole_cluster: bool = False,
    packages: Path | None = None,
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
    return replace(made, reboot=reboot, whole_cluster=whole_cluster, packages=debs)


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
    files = entry.texts if entry is not None else ()
    return (*target.settings, *(text_wanted(file.path, file.content, file.mode) for file in files))


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
    kernel = _kernel(target, facts)
    found = list(
        preflight.check(kernel, target.cluster.nodes, node, facts, bootloader=target.bootloader)
    )
    found += entry.refusals if entry is not None else ()
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
    texts = _texts(target, entry)
    part = node_packages.Part(target.files)
    if packages:
        part = node_packages.part(packages, target.build.kernel_release, facts)
        # The init script is the package's.
        texts = tuple(text for text in texts if text.path != "/etc/init.d/kerrighed")
    planned = node_packages.with_theirs(changes((*part.files, *texts), facts))
    problems += part.problems
    notes += part.notes
    problems += obstacles(planned, facts)
    room = preflight.space(lack_of_space(planned, facts))
    problems += [str(refusal) for refusal in room if refusal.rule not in target.force]
    if problems:
        return Plan(node.name, problems=tuple(problems))
    linked = facts.linked or facts.word("tool") != "update-rc.d"
    runs = () if linked or packages else ("update-rc.d kerrighed defaults",)
    return Plan(
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
    )


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
            )
        except FailedError as error:
            return Outcome(node, "failed", plan, facts, error.message, error.hint)
    state = "unchanged" if plan.empty and what is None else "would change"
    return Outcome(node, state, plan, facts, boot=what)


def observe(
    target: Target, among: Fleet, nodes: Sequence[Node] | None = None
) -> dict[str, Outcome]:
    """Connect to every node, gather its facts and make its plan; one round trip each.

    :param nodes: those to ask; None: those selected of the cluster.
    """
    nodes = target.cluster.selected if nodes is None else nodes

    def ask(node: Node) -> Facts:
        session = among.session(node).__enter__()
        return session.facts(
            target.paths, running=target.reboot, packages=bool(target.packages), idle=180.0
        )

    found: dict[str, Outcome] = {}
    for node, answer in among.each(nodes, ask):
        if isinstance(answer, KrgError):
            found[node.name] = _failed(node, answer)
            continue
        found[node.name] = _planned(target, node, answer)
    return {node.name: found[node.name] for node in nodes}


def apply(
    target: Target,
    among: Fleet,
    seen: Mapping[str, Outcome],
    say: Say,
    on_sent: Callable[[int], None] = lambda _: None,
    date: str | None = None,
) -> dict[str, Outcome]:
    """Carry out the plans of the nodes that would change; return all outcomes.

    :param say: takes one line when a node begins and when it is done.
    :param on_sent: takes the bytes of every file that was sent, to any node.
    """
    return apply_plans(target.build.kernel_release, among, seen, say, on_sent, date)


def apply_plans(
    kernel_release: str,
    among: Fleet,
    seen: Mapping[str, Outcome],
    say: Say,
    on_sent: Callable[[int], None] = lambda _: None,
    date: str | None = None,
) -> dict[str, Outcome]:
    """Carry out plans, whoever made them; ``kernel_release`` names the tree that may be new."""
    done = dict(seen)
    date = date or time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())

    def change(node: Node) -> float:
        outcome = seen[node.name]
        assert outcome.plan is not None and outcome.facts is not None
        say(f"{node.name}: sending {size(outcome.plan.upload)}")
        started = time.monotonic()
        among.session(node).apply(outcome.plan, kernel_release, date, on_sent)
        return time.monotonic() - started

    nodes = [o.node for o in seen.values() if o.state == "would change" and not _idle(o)]
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


def _idle(outcome: Outcome) -> bool:
    """Tell whether there is nothing to send to a node: it is only restarted."""
    return outcome.plan is not None and outcome.plan.empty


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
