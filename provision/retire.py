# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds of ours on a node that nothing can boot any more: a deploy removes them. Values only.

Two builds have an entry (grub.slots). The one before them lost its own to the newest, and its files
stay as long as ``rollback`` of that run would bring its entry back; with the next change of our
entries they go. Only what journals say a run of ours put there is removed, and only where nobody
has changed it since: never the kernel that runs, one that any boot entry or link names, or one of
a node whose boot loader was not read.

A journal says so as long as it is kept; of one that is not, the lists stay in BUILDS.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from provision import boot_entry, boot_plan, journal, node_packages
from provision.cluster import Node
from provision.facts import Facts
from provision.journal import Journal
from provision.plan import BUILDS, JOURNALS, Plan, Retired

# Where links may lead to a kernel by another name; a node is asked for them.
LINKS = ("/vmlinuz", "/vmlinuz.old", "/boot/vmlinuz", "/boot/vmlinuz.old")
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


@dataclass(frozen=True)
class _Build:
    """A build that lies on a node: the runs that put it there, and where they are written down."""

    release: str
    runs: tuple[Journal, ...]
    pruned: frozenset[str]

    def place(self, run: Journal) -> str:
        return f"{BUILDS if run.name in self.pruned else JOURNALS}/{run.name}"


def _pruned(facts: Facts) -> tuple[Journal, ...]:
    """Return what is left of journals that were removed."""
    found = []
    for key, raw in facts.blobs.items():
        kind, _, name = key.partition(" ")
        made = journal.parse(name, b"state done\n" + raw, {}) if kind == "build" else None
        if made is not None and journal.NAME.fullmatch(name):
            found.append(made)
    return tuple(found)


def _gone(runs: Sequence[Journal]) -> dict[str, int]:
    """Return by release the number of the last run that removed it."""
    found: dict[str, int] = {}
    for run in runs:
        for release in run.about.get("retired", ()):
            # One that was interrupted may have left something.
            if not run.begun:
                found[release] = max(run.number, found.get(release, 0))
    return found


def _builds(facts: Facts) -> Iterator[_Build]:
    runs, pruned = journal.read(facts), _pruned(facts)
    gone = _gone(runs)
    there: dict[str, list[Journal]] = {}
    for run in (*pruned, *runs):
        release = run.word("kernel_release")
        if (
            run.word("command") == "deploy"
            and run.state != "rolled-back"
            and _RELEASE.fullmatch(release)
            and run.number > gone.get(release, 0)
        ):
            there.setdefault(release, []).append(run)
    names = frozenset(run.name for run in pruned)
    for release, its in there.items():
        yield _Build(release, tuple(its), names)


def entries(facts: Facts, node: Node) -> tuple[str, ...] | None:
    """Return the releases that our entries boot; None where that is not known."""
    names = boot_entry.kernels(facts, node)
    if names is None:
        return None
    return tuple(sorted(name.removeprefix("vmlinuz-") for name in names))


def _named(release: str, facts: Facts) -> bool:
    """Tell whether a boot loader's file or a link names a kernel, be it in a comment."""
    name = re.compile(rb"vmlinuz-" + re.escape(release.encode()) + rb"(?![A-Za-z0-9._+-])")
    texts = [text.content for path, text in facts.texts.items() if path.startswith("/boot/")]
    # The lines of other files, and of some of these once more.
    texts.append(facts.blobs.get("boot_names", b""))
    links = ((seen.target or "") for path in LINKS if (seen := facts.files.get(path)) is not None)
    return any(map(name.search, (*texts, *(link.encode() for link in links))))


# Stands for the run that is planned.
_NEXT = Journal("", "done", {"number": (f"{10**9 - 1}",)})


def _needed(runs: Sequence[Journal]) -> set[str]:
    """Return the releases whose entries a rollback of the last run brings back.

    It takes back interrupted runs before it as well, and what those were taking back.
    """
    return {one for run in journal.chosen(runs) for one in run.word("menu").split()}


def _has_other_name(release: str, facts: Facts, ours: Collection[str]) -> bool:
    """Tell whether a kernel may lie in /boot under another name too: a link to it, or a copy.

    An entry by that name boots our kernel, and needs its modules. The same size is enough.

    :param ours: the releases of our kernels, which may well be of one size.
    """
    seen = re.findall(rb"^([0-9]+) ([^\n]+)$", facts.blobs.get("boot", b""), re.MULTILINE)
    kernel = f"/boot/vmlinuz-{release}".encode()
    mine = {f"/boot/vmlinuz-{one}".encode() for one in ours}
    others = {size for size, path in seen if path not in mine}
    return any(path == kernel and size in others for size, path in seen)


def with_retired(plan: Plan, facts: Facts, node: Node, release: str, *, bootloader: bool) -> Plan:
    """Return a deploy's plan that removes what is no longer needed, and writes down what was.

    :param plan: without problems, and with our entry in the boot loader's files.
    :param release: the kernel release that is deployed.
    :param bootloader: whether a boot entry is written; without, nothing is removed.
    """
    after = boot_plan.after(plan, facts)
    before, later = entries(facts, node), entries(after, node)
    if not bootloader or before is None or later is None or boot_entry.unread(facts):
        return _keeping(plan, facts, ())
    words = plan.about
    kept = {release, facts.word("kernel") or "", *before, *later}
    runs = journal.standing(journal.read(facts))
    kept |= _needed((*runs, _NEXT))
    if before != later:
        words += (("menu", " ".join(before) or "-"),)
    else:
        # What taking back the last change of our entries would need.
        while runs and not runs[-1].word("menu"):
            runs = runs[:-1]
        if not runs:
            return _keeping(plan, facts, ())
        kept |= _needed(runs)
    old = [build for build in _builds(facts) if build.release not in kept]
    ours = {release, *before, *later, *(build.release for build in _builds(facts))}
    named = [
        b
        for b in old
        if _named(b.release, facts)
        or _named(b.release, after)
        or _has_other_name(b.release, facts, ours)
    ]
    retired = tuple(
        found
        for build in old
        if build not in named and (found := _retired(build, facts)) is not None
    )
    notes = plan.notes + tuple(
        f"the build {one.release} is none of our entries and stays: a boot loader's file or a link "
        "names its kernel, such as the list that update-grub makes of all kernels, or /boot has "
        "it under another name, too"
        for one in named
    )
    if retired and plan.settled:
        words = tuple((word, value) for word, value in words if word != "command")
        words = (("command", "retire"), *words)
    words += tuple(("retired", one.release) for one in retired)
    return _keeping(replace(plan, notes=notes, about=words, retires=retired), facts, retired)


def _retired(build: _Build, facts: Facts) -> Retired | None:
    """Return what is to be removed of a build; None where dpkg would have to say more.

    A package that was there before ours, or that somebody upgraded since, is not ours to purge.
    """
    ends = f"linux-image-{build.release}", f"-modules-{build.release}"
    lines = [line for run in build.runs for line in run.about.get("package", ())]
    names = {n: its for n, its in node_packages.noted(lines).items() if n.endswith(ends)}
    have = node_packages.read(facts).packages
    if names and not have:
        return None
    there = [name for name in names if have.get(name, ("", ""))[1] not in ("", "not-installed")]
    if any(names[name][0] != "-" or have[name][0] not in names[name][2] for name in there):
        return None
    command = node_packages.purge(there) if there else None
    places = tuple(build.place(run) for run in build.runs)
    return Retired(build.release, build.runs[-1].date, places, command)


def _keeping(plan: Plan, facts: Facts, retired: Collection[Retired]) -> Plan:
    """Return the plan with the lists that stay of journals that it removes."""
    gone = {one.release for one in retired}
    stay = tuple(
        (run.name, build.release)
        for build in _builds(facts)
        if build.release not in gone
        for run in build.runs
        if run.name in plan.prunes
    )
    return replace(plan, lists=stay)


def checked(plan: Plan, facts: Facts, node: Node) -> Plan:
    """Return a rollback's plan, refused where it would bring back an entry without its kernel.

    :param facts: with journals.
    """
    if plan.problems:
        return plan
    runs = journal.read(facts)
    # By interrupted runs, too, if they came so far.
    gone = {release for run in runs for release in run.about.get("retired", ())}
    back = {change.place for change in plan.changes if not change.wanted.absent}
    for release in entries(boot_plan.after(plan, facts), node) or ():
        path = f"/boot/vmlinuz-{release}"
        if release in gone and path not in facts.files and path not in back:
            date = next(r.date for r in reversed(runs) if release in r.about.get("retired", ()))
            problem = (
                f"the entry of {release} would come back, and the run of {date} removed that "
                "build: nothing named it any more. Take back less, or all since before it came "
                "(--to)"
            )
            return Plan(plan.name, problems=(problem,))
    return _keeping(plan, facts, ())
