# SPDX-License-Identifier: GPL-2.0-or-later
"""A build onto nodes: what a node shall have, and the way from facts to plan to change.

Sources: Kerrighed 2.4.4's reading of its parameters and files, the GRUB 0.97 manual,
Documentation/kernel-parameters.txt of Linux 2.6.20.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from grub import legacy
from provision.artifacts import Artifacts, describe_or_none
from provision.cluster import Cluster, Node, check_against_kernel
from provision.data import render
from provision.errors import FailedError, InputError, KrgError
from provision.facts import Facts
from provision.node import ChangedError, Session, check_access
from provision.plan import Plan, Wanted, changes, is_safe_path, obstacles, size

T = TypeVar("T")
Say = Callable[[str], None]

MENU = "/boot/grub/menu.lst"
# Seconds after a panic until the node reboots: an old entry is then booted again.
PANIC_SECONDS = 10


# --- what a node shall have ---------------------------------------------------------------


def build_files(build: Artifacts) -> tuple[Wanted, ...]:
    """Return the files of a build as they shall lie on a node: modules, tools, then /boot.

    :raises InputError: the build is damaged, incomplete, or has names that cannot be handled.
    """
    release = build.kernel_release
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", release):
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
    damaged = [n for _, n in named if describe_or_none(build.path(n)) != build.files[n]]
    if damaged:
        raise InputError(
            f"{build.path(damaged[0])} is not what the build made ({len(damaged)} files differ)",
            hint="build again: krg-provision build-kernel",
        )
    return tuple(_from_build(build, path, name) for path, name in named)


def _from_build(build: Artifacts, path: str, name: str) -> Wanted:
    entry = build.files[name]
    # The builder's umask is no business of the nodes.
    mode = 0o755 if entry.mode & 0o111 else 0o644
    if entry.target is not None:
        return Wanted(path, entry.sha256, entry.size, 0o777, target=entry.target)
    return Wanted(path, entry.sha256, entry.size, mode, source=build.path(name))


def _text(path: str, content: bytes, mode: int = 0o644) -> Wanted:
    digest = hashlib.sha256(content).hexdigest()
    return Wanted(path, digest, len(content), mode, content=content)


@dataclass(frozen=True)
class Target:
    """What is deployed: a build for a cluster; ``bootloader`` off leaves menu.lst alone."""

    cluster: Cluster
    build: Artifacts
    files: tuple[Wanted, ...]
    autonodeid: bool
    bootloader: bool = True

    @property
    def paths(self) -> list[str]:
        """Return the paths a node is asked about."""
        return [wanted.path for wanted in self.files]


def target(cluster: Cluster, build: Artifacts, *, bootloader: bool = True) -> Target:
    """Check that build and cluster fit together, and that both can be used.

    :raises InputError: damaged build, an id the kernel does not take, an unreadable key.
    """
    files = build_files(build)
    config = build.path("config").read_text("utf-8", "replace")
    check_against_kernel(cluster, config)
    check_access(cluster.nodes)
    return Target(cluster, build, files, "CONFIG_KRG_AUTONODEID=y\n" in config, bootloader)


def _root(node: Node, arguments: legacy.Kernel, facts: Facts) -> str:
    """Return the root= of our entry: a device, for there is no initrd to find it by a label."""
    if node.root is not None:
        return node.root
    value = arguments.value("root") or ""
    if re.match(r"(UUID|LABEL|PARTUUID)=", value):
        device = facts.word("rootdev") or ""
        if re.fullmatch(r"/dev/[a-z]+[0-9]*", device) and device != "/dev/root":
            return device
    elif not value.startswith("/dev/mapper/"):
        return value
    raise FailedError(
        f"{MENU} has root={value}, which needs an initrd, and this build has none",
        hint='name the device in the cluster file, such as root = "/dev/hda1"',
    )


def _check_address(node: Node, arguments: Sequence[str], autonodeid: bool) -> None:
    """Refuse an address on the kernel line that would silently become the node id."""
    for word in arguments:
        if autonodeid and word.startswith("ip=") and word not in ("ip=off", "ip=none"):
            last = re.match(r"ip=[0-9]+\.[0-9]+\.[0-9]+\.([0-9]+)", word)
            if last is None or int(last.group(1)) != node.id:
                raise FailedError(
                    f"{MENU} has {word}: this kernel then takes the address's last byte as node "
                    f"id and ignores node_id={node.id}",
                    hint="give the node that id, remove ip=, or build without KRG_AUTONODEID",
                )


def menu(target: Target, node: Node, facts: Facts) -> bytes:
    """Return the node's menu.lst with our entry in it.

    :raises FailedError: there is none, or it cannot be edited safely.
    """
    there = facts.texts.get(MENU)
    if there is None:
        raise FailedError(
            f"there is no {MENU}",
            hint="GRUB Legacy is not in use there: --no-bootloader installs all but the boot entry",
        )
    text = there.content.decode("latin-1")
    try:
        saved = legacy.saved_index(facts.word("saved") or "")
        good = legacy.known_good(text, saved)
        assert good.kernel is not None
        root = _root(node, good.kernel, facts)
        release = target.build.kernel_release
        arguments = legacy.with_arguments(
            (f"root={root}" if a.startswith("root=") else a for a in good.kernel.arguments),
            (
                ("session_id", str(target.cluster.session)),
                ("node_id", str(node.id)),
                ("panic", str(PANIC_SECONDS)),
            ),
            node.append,
        )
        _check_address(node, arguments, target.autonodeid)
        path = legacy.kernel_path(
            good.kernel, f"vmlinuz-{release}", boot_is_separate=facts.boot_is_separate
        )
        body = render(
            "menu_lst.j2",
            kernel_release=release,
            node_id=node.id,
            session=target.cluster.session,
            root=f"{good.root.name}\t\t{good.root.argument}" if good.root else "",
            kernel=path,
            arguments=" ".join(arguments),
        )
        return legacy.put(text, body).encode("latin-1")
    except legacy.MenuError as error:
        raise FailedError(f"{MENU}: {error}", hint="edit it on the node, then deploy") from error


def _texts(target: Target, node: Node, facts: Facts) -> tuple[Wanted, ...]:
    settings = render("default_kerrighed.j2", legacy_sched=target.cluster.legacy_sched)
    found = [
        _text("/etc/kerrighed_nodes", target.cluster.nodes_file().encode()),
        _text("/etc/default/kerrighed", settings.encode()),
        _text("/etc/init.d/kerrighed", render("kerrighed.init.j2").encode(), 0o755),
    ]
    if target.bootloader:
        found.append(_text(MENU, menu(target, node, facts), 0o600))
    return tuple(found)


def _refusals(target: Target, facts: Facts) -> Iterator[str]:
    if facts.word("uid") != "0":
        yield "the login is not root's"
    if facts.lacks:
        yield f"lacks the commands {', '.join(facts.lacks)}"
    # A running Kerrighed is not asked for its processor: /proc/cpuinfo can hang.
    old = facts.word("machine") != "x86_64" and facts.word("cpu64") is None
    if target.build.arch == "x86_64" and old and facts.word("node_id") is None:
        yield "its processor is 32-bit, the build is for x86_64"


def _notes(target: Target, node: Node, facts: Facts) -> Iterator[str]:
    short = (facts.word("hostname") or "").split(".")[0]
    if short and short != node.name:
        yield (
            "the node calls itself by another name than the cluster file does; the kernel "
            "gets its ids from the boot entry instead of /etc/kerrighed_nodes"
        )
    if facts.word("node_id") is not None:
        yield "Kerrighed is running; the new files take effect at the next boot"
    if not facts.linked and facts.word("tool") != "update-rc.d":
        yield "no update-rc.d: /etc/init.d/kerrighed is not started at boot"
    if not target.bootloader:
        yield "no boot entry is written (--no-bootloader)"


def make_plan(target: Target, node: Node, facts: Facts) -> Plan:
    """Return what has to change on one node; with problems the plan holds nothing to do."""
    problems = list(_refusals(target, facts))
    notes = tuple(_notes(target, node, facts))
    try:
        wanted = (*target.files, *_texts(target, node, facts))
    except FailedError as error:
        hint = f" ({error.hint})" if error.hint else ""
        return Plan(node.name, problems=(*problems, error.message + hint))
    planned = changes(wanted, facts)
    problems += obstacles(planned, facts)
    if problems:
        return Plan(node.name, problems=tuple(problems))
    linked = facts.linked or facts.word("tool") != "update-rc.d"
    runs = () if linked else ("update-rc.d kerrighed defaults",)
    return Plan(node.name, planned, runs, (), notes)


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


class Fleet:
    """The sessions with all nodes, worked in a bounded pool; a context manager."""

    def __init__(self, nodes: Sequence[Node], forks: int) -> None:
        self._sessions = {node.name: Session(node) for node in nodes}
        self._pool = ThreadPoolExecutor(max_workers=max(1, min(forks, len(nodes))))

    def session(self, node: Node) -> Session:
        """Return the session of a node."""
        return self._sessions[node.name]

    def close(self) -> None:
        """End all sessions, so that threads still at work end too."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for session in self._sessions.values():
            session.close()

    def each(
        self, nodes: Sequence[Node], work: Callable[[Node], T]
    ) -> Iterator[tuple[Node, T | KrgError]]:
        """Yield (node, result) as nodes finish; a node's KrgError is its result."""
        waiting: dict[Future[T], Node] = {self._pool.submit(work, node): node for node in nodes}
        for future in as_completed(waiting):
            try:
                yield waiting[future], future.result()
            except KrgError as error:
                yield waiting[future], error


@contextmanager
def fleet(nodes: Sequence[Node], forks: int) -> Iterator[Fleet]:
    """Open a fleet and end all its sessions whatever happens."""
    made = Fleet(nodes, forks)
    try:
        yield made
    finally:
        made.close()


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
    for node, answer in among.each(nodes, change):
        outcome = seen[node.name]
        if isinstance(answer, KrgError):
            done[node.name] = _failed(node, answer, outcome.plan)
        else:
            done[node.name] = replace(outcome, state="changed")
            say(f"{node.name}: done in {answer:.1f} s")
    return done


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return one line that counts the nodes by state."""
    states = ("unchanged", "would change", "changed", "skipped", "failed")
    counts = {s: sum(1 for o in outcomes if o.state == s) for s in states}
    parts = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{len(outcomes)} node{'s' if len(outcomes) != 1 else ''}: {parts}"


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as values for JSON."""
    from provision.plan import as_json as plan_json

    return {
        "name": outcome.node.name,
        "address": outcome.node.address,
        "state": outcome.state,
        "error": outcome.error,
        "hint": outcome.hint,
        "plan": None if outcome.plan is None else plan_json(outcome.plan),
    }
