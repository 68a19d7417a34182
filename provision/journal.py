# SPDX-License-Identifier: GPL-2.0-or-later
"""What former runs wrote down on a node, and the plan that takes them back.

Each run leaves JOURNALS/DATE-TOKEN/ on its node (templates/apply.sh.j2 writes it): ``state``
(begun, done, rolled-back), ``about`` (words), ``paths`` (what was at each path and what is
there since), ``added`` (directories) and ``files/`` (copies of what was replaced). Here they
are values: read from the facts, chosen, turned into a Plan. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from provision import (
    boot_entry,
    boot_grub2,
    bootable,
    deadman,
    evidence,
    module_files,
    node_packages,
)
from provision.cluster import Node
from provision.errors import FailedError
from provision.facts import ABSENT, Facts, Seen
from provision.plan import (
    JOURNALS,
    Change,
    Plan,
    Wanted,
    changes,
    is_safe_path,
    lack_of_space,
    made_from,
    obstacles,
    text_wanted,
    token_of,
)

# Rules of a rollback that --force NAME overrules, and what they refuse.
RULES = {"changed": "a file that somebody changed since"}
# How many finished runs can be taken back.
KEPT = 5

NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{16}")
_TOKEN = re.compile(r"absent|(?:file|link):[0-9a-f]{64}")
# What these did belongs to the run before them.
_CONTINUE = ("boot", "retire")
_STATES = ("begun", "done", "rolled-back")
_WORD = re.compile(r"[a-z_]{1,32}")


@dataclass(frozen=True)
class Line:
    """One path of a journal: what was there, with mode and owner, and what is there since."""

    path: str
    before: str
    after: str
    mode: int = 0
    owner: tuple[int, int] = (0, 0)
    kept: bool = False


@dataclass(frozen=True)
class Journal:
    """One run on one node, as it was written down there.

    ``copies`` holds the former content of settings, ``paths`` and ``added`` only if asked for.
    """

    name: str
    state: str
    about: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    paths: tuple[Line, ...] = ()
    added: tuple[str, ...] = ()
    copies: Mapping[str, bytes] = field(default_factory=dict)

    def word(self, name: str) -> str:
        """Return the first value of a word, "" if there is none."""
        return next(iter(self.about.get(name, ())), "")

    @property
    def number(self) -> int:
        """Return its place in the order of runs on this node; dates are other machines'."""
        text = self.word("number")
        return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0

    @property
    def date(self) -> str:
        """Return when the run was started, by the clock of the machine it was started on."""
        return self.name.partition("-")[0]

    @property
    def begun(self) -> bool:
        """Tell whether the run did not come to its end."""
        return self.state == "begun"

    def continues(self, other: Journal) -> bool:
        """Tell whether it belongs to the run before it: a boot is of what was deployed last."""
        return self.word("command") in _CONTINUE and self.number > other.number

    @property
    def undoes(self) -> tuple[str, ...]:
        """Return the names of the runs that this one took back."""
        return self.about.get("undoes", ())


def _line(text: str) -> Line | None:
    words = text.split(" ")
    if len(words) != 7:
        return None
    before, mode, uid, gid, after, kept, path = words
    if not (_TOKEN.fullmatch(before) and _TOKEN.fullmatch(after) and is_safe_path(path)):
        return None
    if before == ABSENT:
        return Line(path, before, after)
    if not (
        re.fullmatch("[0-7]{1,4}", mode) and re.fullmatch("[0-9]{1,10} [0-9]{1,10}", f"{uid} {gid}")
    ):
        return None
    return Line(path, before, after, int(mode, 8), (int(uid), int(gid)), kept == "yes")


def parse(name: str, raw: bytes, copies: Mapping[str, bytes]) -> Journal | None:
    """Return a journal as a node told it; None where it makes no sense."""
    about: dict[str, list[str]] = {}
    paths, added, state = [], [], ""
    for text in raw.decode("utf-8", "replace").split("\n"):
        word, _, value = text.partition(" ")
        if word == "state" and not state:
            state = value
        elif word == "path":
            line = _line(value)
            if line is None:
                # Half a journal would bring back half of what was there.
                return None
            paths.append(line)
        elif word == "added":
            if is_safe_path(value):
                added.append(value)
        elif _WORD.fullmatch(word):
            about.setdefault(word, []).append(value)
    if state not in _STATES:
        return None
    words = {word: tuple(values) for word, values in about.items()}
    return Journal(name, state, words, tuple(paths), tuple(added), copies)


def read(facts: Facts) -> tuple[Journal, ...]:
    """Return a node's journals in the order in which they were written; unusable ones left out.

    A run that another one took back counts as rolled back, whatever its own state says.
    """
    found = []
    for key, raw in facts.blobs.items():
        kind, _, name = key.partition(" ")
        if kind == "journal" and NAME.fullmatch(name):
            start = f"copy {name} "
            copies = {k[len(start) :]: b for k, b in facts.blobs.items() if k.startswith(start)}
            made = parse(name, raw, copies)
            if made is not None:
                found.append(made)
    found.sort(key=lambda journal: (journal.number, journal.name))
    gone = {name for j in found if j.state == "done" for name in j.undoes}
    return tuple(
        Journal(j.name, "rolled-back", j.about, j.paths, j.added, j.copies) if j.name in gone else j
        for j in found
    )


def standing(journals: Sequence[Journal]) -> tuple[Journal, ...]:
    """Return those that could be taken back: not rolled back, and no finished rollback."""
    return tuple(j for j in journals if j.state != "rolled-back" and not (j.undoes and not j.begun))


def chosen(journals: Sequence[Journal], since: str | None = None) -> tuple[Journal, ...]:
    """Return the runs that a rollback takes back, the oldest first.

    Without ``since`` (a date, or the beginning of one) that is the last run; with it, all from
    then on. A deploy that also boots makes several journals, all with its date. Interrupted runs
    belong to the run that was made after them, and an interrupted rollback to the runs that it
    was taking back.
    """
    left = standing(journals)
    if not left:
        return ()
    if since is not None:
        start = next((n for n, j in enumerate(left) if j.date >= since), len(left))
    else:
        start = len(left) - 1
    if start == len(left):
        return ()
    while start and (left[start - 1].begun or left[start].continues(left[start - 1])):
        start -= 1
    undone = {name for j in left[start:] for name in j.undoes}
    earliest = [n for n, j in enumerate(left) if j.name in undone]
    return left[min([start, *earliest]) :]


def expendable(journals: Sequence[Journal]) -> tuple[str, ...]:
    """Return the names of those that go away when one more is written.

    The newest KEPT runs stay, with what continued them, and with the oldest of them the
    interrupted ones that belong to it.
    """
    runs = [n for n, j in enumerate(journals) if not j.begun and j.word("command") not in _CONTINUE]
    if len(runs) < KEPT:
        return ()
    first = runs[-(KEPT - 1)]
    while first and journals[first - 1].begun:
        first -= 1
    return tuple(journal.name for journal in journals[:first])


# --- the way back -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Former:
    """What a path shall be again, which journal has it, and what it may be now."""

    line: Line
    journal: Journal
    since: frozenset[str]


def _former(runs: Sequence[Journal]) -> dict[str, _Former]:
    found: dict[str, _Former] = {}
    for journal in runs:
        for line in journal.paths:
            known = found.get(line.path)
            first, owner = (line, journal) if known is None else (known.line, known.journal)
            states = {line.before, line.after} | (known.since if known else frozenset())
            found[line.path] = _Former(first, owner, frozenset(states))
    return found


def _wanted(former: _Former, there: Seen | None) -> Wanted:
    line, journal = former.line, former.journal
    if line.before == ABSENT:
        return Wanted(line.path, "", 0, 0, known=ABSENT)
    kind, _, digest = line.before.partition(":")
    content = journal.copies.get(line.path) if kind == "file" else None
    # How large the copy is was not written down; what stands there now is about as large.
    size = len(content) if content is not None else there.size if there is not None else 0
    return Wanted(
        line.path,
        digest,
        size,
        line.mode,
        content=content,
        copy=f"{JOURNALS}/{journal.name}/files{line.path}",
        known=line.before,
    )


# Stands in the marker lines of our entries.
_MARK = b"KRG-PROVISION"
# What the boot loader writes by itself: never somebody's.
_WRITTEN_AT_BOOT = ("/boot/grub/default", "/boot/grub/grubenv", "/boot/grub2/grubenv")


def _is_loader(path: str) -> bool:
    return path.startswith(("/boot/grub/", "/boot/grub2/"))


def rollback(
    node: Node,
    facts: Facts,
    *,
    since: str | None = None,
    force: frozenset[str] = frozenset(),
    leaves: bool = False,
) -> Plan:
    """Return the plan that brings a node back to what it was before the chosen runs.

    Files come back from the copies on the node, byte for byte, with mode and owner; what was
    added goes away, and directories with it once they are empty; nothing else is touched. Boot
    entries first: at no time one of them names a kernel that is gone.

    :param leaves: the node is restarted into another kernel before any of it is done.
    """
    problems = []
    if facts.word("uid") != "0":
        problems.append("the login is not root's")
    if facts.lacks:
        problems.append(f"lacks the commands {', '.join(facts.lacks)}")
    journals = read(facts)
    runs = chosen(journals, since)
    if not runs:
        return Plan(node.name, problems=tuple(problems))
    found = _former(runs)
    packages = node_packages.undo(
        [line for journal in runs for line in journal.about.get("package", ())],
        facts,
        leaves=leaves,
    )
    planned, wrong = _restored(found, facts, force)
    entry = None
    if _loader_changed(found, facts) or _unbootable(node, planned, facts, packages.purged):
        entry = _with_former_entries(node, facts, found)
    if entry is not None:
        others = {path: former for path, former in found.items() if not _is_loader(path)}
        planned, wrong = _restored(others, facts, force)
        planned = [*entry, *planned]
    problems += wrong
    problems += packages.problems
    planned = list(node_packages.with_theirs(planned)) if packages.first else planned
    problems += () if leaves else running(planned, facts)
    problems += _unbootable(node, planned, facts, packages.purged)
    problems += boot_grub2.unbootable(facts, bootable.gone(planned, packages.purged))
    problems += obstacles(planned, facts)
    problems += lack_of_space(planned, facts)
    if problems:
        return Plan(node.name, problems=tuple(problems))
    emptied = {directory for journal in runs for directory in journal.added}
    names = tuple(journal.name for journal in runs)
    return Plan(
        node.name,
        tuple(planned),
        _undoing(runs, found),
        notes=tuple(_notes(runs, entry is not None, facts)),
        made_from=made_from(facts),
        about=(("command", "rollback"), *(("undoes", name) for name in names)),
        emptied=tuple(sorted(emptied, key=lambda path: (-path.count("/"), path))),
        closes=names,
        first=packages.first,
        prunes=expendable(journals),
    )


def _unbootable(
    node: Node, planned: Sequence[Change], facts: Facts, purged: Sequence[str]
) -> list[str]:
    # GRUB 2 does not read the menu.lst that an upgrade from GRUB Legacy left.
    if boot_entry.loader(facts, node.boot_loader) == "grub2":
        return []
    return list(bootable.refused(planned, facts, purged))


def _restored(
    found: Mapping[str, _Former], facts: Facts, force: frozenset[str]
) -> tuple[list[Change], list[str]]:
    """Return the changes that bring paths back, the boot loader's first, and what is wrong."""
    settings = {text.real: text for text in facts.texts.values()}
    planned: list[Change] = []
    problems = []
    for path, former in found.items():
        there = facts.files.get(path)
        now, wanted = token_of(there), _wanted(former, there)
        if now == wanted.token and (
            there is None or there.target is not None or there.mode == wanted.mode
        ):
            continue
        ours = now in former.since or path in _WRITTEN_AT_BOOT
        if not ours and "changed" not in force:
            problems.append(
                f"{path} was changed since {former.journal.date} (--force changed "
                "brings the old one back all the same; a copy is kept)"
            )
        if wanted.copy is not None and not former.line.kept:
            problems.append(f"no copy of {path} was kept")
        # What came from a build can be had again; what somebody wrote cannot.
        keep = path in settings or not ours
        planned.append(Change(wanted, settings.get(path, there), keep))
    first = [change for change in planned if _is_loader(change.place)]
    return [*first, *reversed([c for c in planned if not _is_loader(c.place)])], problems


def _undoing(runs: Sequence[Journal], found: Mapping[str, _Former]) -> tuple[str, ...]:
    """Return the commands that undo those that the runs gave.

    Whether the script is still there or an interrupted rollback has removed it already. That of
    a module was given because nothing started it; that of a trial may have been given again.
    """
    ran = [command for journal in runs for command in journal.about.get("ran", ())]
    undone_by = module_files.disable(ran)
    script = found.get(deadman.SCRIPT)
    if deadman.START in ran and script is not None and script.line.before == ABSENT:
        undone_by += (deadman.START_UNDONE_BY,)
    return undone_by


def _loader_changed(found: Mapping[str, _Former], facts: Facts) -> bool:
    return any(
        _is_loader(path)
        and path not in _WRITTEN_AT_BOOT
        and token_of(facts.files.get(path)) not in former.since
        for path, former in found.items()
    )


def _with_former_entries(
    node: Node, facts: Facts, found: Mapping[str, _Former]
) -> tuple[Change, ...] | None:
    """Return how our entries become the former ones in the boot loader's files as they are now.

    For files that were changed since: update-grub writes menu.lst whenever a kernel comes or
    goes, so the former one may name kernels that are gone. And where our entry is the default
    or will be tried at the next boot. None if that cannot be done safely.
    """
    paths = [path for path in found if _is_loader(path)]
    former = {
        path: found[path].journal.copies.get(path, b"")
        for path in paths
        if found[path].line.before != ABSENT
    }
    mine = any(_MARK in former[path] for path in former if path not in _WRITTEN_AT_BOOT)
    try:
        switch = (
            boot_entry.bring_back(facts, former, node) if mine else boot_entry.remove(facts, node)
        )
    except FailedError:
        return None
    texts = [
        # A file that was not there before is empty now, but for our entry.
        Wanted(file.path, "", 0, 0, known=ABSENT)
        if not file.content and file.path in found and found[file.path].line.before == ABSENT
        else text_wanted(file.path, file.content, file.mode)
        for file in switch.texts
    ]
    return None if switch.first else changes(texts, facts)


def running(planned: Sequence[Change], facts: Facts) -> Iterator[str]:
    """Refuse to remove the kernel that runs: its modules could no longer be loaded."""
    release = facts.word("kernel") or ""
    gone = [change.place for change in planned if change.wanted.absent]
    if f"/boot/vmlinuz-{release}" in gone or any(
        path.startswith(f"/lib/modules/{release}/") for path in gone
    ):
        yield (
            f"{release} is the kernel that runs there: boot another entry first (rollback --reboot "
            "does it), then roll back"
        )


def _notes(runs: Sequence[Journal], entry_only: bool, facts: Facts) -> Iterator[str]:
    for journal in runs:
        what = journal.word("command") or "run"
        build = f" of {journal.word('build')}" if journal.word("build") else ""
        end = ", which was interrupted" if journal.begun else ""
        yield f"takes back the {what}{build} of {journal.date}{end}"
    if entry_only:
        yield (
            "the boot loader's files are not as they were left: only our entry is taken out, or "
            "becomes the former one"
        )
    if evidence.kerrighed_runs(facts):
        yield "Kerrighed is running; rebooting this node alone harms all nodes of its cluster"


def listing(facts: Facts) -> list[dict[str, Any]]:
    """Return a node's runs for people and programs, the oldest first."""
    return [
        {
            "name": journal.name,
            "date": journal.date,
            "state": journal.state,
            "command": journal.word("command"),
            "build": journal.word("build"),
            "kernel_release": journal.word("kernel_release"),
            "undoes": list(journal.undoes),
        }
        for journal in read(facts)
    ]
