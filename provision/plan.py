# SPDX-License-Identifier: GPL-2.0-or-later
"""Desired state minus observed facts: the changes of one node, and how people read them.

Values in, values out. ``changes`` says what differs from what is wanted, ``show`` prints
the plans of many nodes with identical changes folded; provision.node carries one out,
unchanged.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.facts import ABSENT, Facts, Seen, Text

# What runs leave behind on a node: what they replaced, so that it can be brought back.
JOURNALS = "/var/lib/krg-provision/journal"
# Of those that are kept no longer: which files of a build are ours.
BUILDS = "/var/lib/krg-provision/builds"
# Where files are made ready: on the same file system as their final place.
AREAS = ("/lib/modules", "/usr/local", "/var/cache", "/etc")
# What a file costs on disk beyond its bytes, and what is never used up.
_BLOCK = 4096
_RESERVE = 128 * 1024
# Inodes for the directories that are made.
_DIRECTORIES = 32

_SAFE_PATH = re.compile(r"(?:/[A-Za-z0-9_+@%=,:~][A-Za-z0-9._+@%=,:~-]*){1,32}")


def is_safe_path(path: str) -> bool:
    """Tell whether a path is absolute and needs no quoting: no blanks, no dot at a name's start."""
    return len(path) < 1024 and _SAFE_PATH.fullmatch(path) is not None


def area(path: str) -> str:
    """Return the directory below which ``path`` is made ready before it is moved into place."""
    for name in AREAS:
        if path.startswith(name + "/"):
            return name
    return path.rpartition("/")[0]


def token_of(seen: Seen | Text | None) -> str:
    """Return in one word what was seen at a path, as templates/apply.sh.j2 says it."""
    if seen is None:
        return ABSENT
    if isinstance(seen, Seen) and seen.target is not None:
        return link_token(seen.target)
    return f"file:{seen.sha256}" if seen.sha256 is not None else "other"


def link_token(target: str) -> str:
    """Return the word for a link: targets may hold blanks, so it is a digest too."""
    return "link:" + hashlib.sha256(f"{target}\n".encode()).hexdigest()


@dataclass(frozen=True)
class Wanted:
    """A file or link as it shall be.

    From the build (``source``), written here (``content``), or brought back from a copy on
    the node (``copy``, with mode and owner; its ``token`` is known from the journal). A path
    where nothing shall be has the token ABSENT.
    """

    path: str
    sha256: str
    size: int
    mode: int
    content: bytes | None = None
    source: Path | None = None
    target: str | None = None
    copy: str | None = None
    known: str | None = None

    @property
    def token(self) -> str:
        """Return in one word what shall be there."""
        if self.known is not None:
            return self.known
        return f"file:{self.sha256}" if self.target is None else link_token(self.target)

    @property
    def absent(self) -> bool:
        """Tell whether nothing shall be there."""
        return self.known == ABSENT

    @property
    def sent(self) -> bool:
        """Tell whether it travels to the node."""
        return self.copy is None and not self.absent

    @property
    def is_text(self) -> bool:
        """Tell whether it is a configuration file, shown as a diff."""
        return self.content is not None


def text_wanted(path: str, content: bytes, mode: int = 0o644) -> Wanted:
    """Return a configuration file that is written here."""
    digest = hashlib.sha256(content).hexdigest()
    return Wanted(path, digest, len(content), mode, content=content)


@dataclass(frozen=True)
class Change:
    """One file that is not as wanted; ``before`` is what is there now.

    Without ``keep`` no copy of that is kept: it can be had again in another way. ``theirs``
    is what a command of the plan writes as well, before this does.
    """

    wanted: Wanted
    before: Seen | Text | None
    keep: bool = True
    theirs: bool = False

    @property
    def place(self) -> str:
        """Return the path that is written: where a linked configuration file really is."""
        return self.before.real if isinstance(self.before, Text) else self.wanted.path

    @property
    def mode(self) -> int:
        """Return the permission bits to give: an edited file keeps its own."""
        if isinstance(self.before, Text) and self.wanted.sent:
            return self.before.mode | (self.wanted.mode & 0o111)
        return self.wanted.mode

    @property
    def verb(self) -> str:
        """Say in a word what happens to the file."""
        if self.wanted.absent:
            return "remove"
        if self.wanted.copy is not None:
            return "restore"
        return "add" if self.before is None else "replace"

    @property
    def backed_up(self) -> bool:
        """Tell whether a copy of what is there is kept in the journal."""
        return self.before is not None and self.keep

    @property
    def foreign(self) -> bool:
        """Tell whether what is replaced may be somebody else's: settings, what is in /usr/local."""
        ours = self.place.startswith(("/lib/modules/", "/boot/"))
        return isinstance(self.before, Text) or (self.backed_up and not ours)


@dataclass(frozen=True)
class MadeFrom:
    """What a plan was made from and does not change; if it is otherwise, nothing is done.

    ``files`` holds path and SHA-256, or ABSENT, of files that were read, wherever links lead.
    """

    words: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()

    def word(self, name: str) -> str | None:
        """Return the value of one word: kernel, boot_id, root_number."""
        return dict(self.words).get(name)


def made_from(facts: Facts) -> MadeFrom:
    """Return what in a node's facts decides, for its plan."""
    words = ("kernel", "boot_id", "root_number")
    files = {
        path: digest
        for path, digest in facts.reads.items()
        if is_safe_path(path) and (digest == ABSENT or re.fullmatch(r"[0-9a-f]{64}", digest))
    }
    return MadeFrom(
        tuple((name, value) for name in words if (value := facts.word(name))),
        tuple(files.items()),
    )


@dataclass(frozen=True)
class Retired:
    """A build that is removed: what the runs in ``places`` put there, or the command that does it.

    ``date`` is when it was deployed last.
    """

    release: str
    date: str
    places: tuple[str, ...]
    command: str | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be done on one node; with ``problems`` nothing is.

    :param checks: commands that must succeed before anything is changed; "{stage}" in them is
        the name of the staging directories.
    :param first: commands between the files that they need (upload.EARLY) and all others.
    :param made_from: what must still be so when it is carried out.
    :param about: words for the journal: what this is (command, build, kernel release).
    :param emptied: directories that go away if nothing is left in them, the deepest first.
    :param closes: names of the journals that this plan undoes.
    :param prunes: names of journals that are no longer needed.
    :param lists: of those, name and kernel release where the list of files is still needed.
    :param retires: builds that nothing can boot any more.
    :param drops: paths of packages in /var/cache that are no longer needed.
    """

    name: str
    changes: tuple[Change, ...] = ()
    runs: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    made_from: MadeFrom = MadeFrom()
    about: tuple[tuple[str, str], ...] = ()
    emptied: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    prunes: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    lists: tuple[tuple[str, str], ...] = ()
    retires: tuple[Retired, ...] = ()

    @property
    def settled(self) -> bool:
        """Tell whether at most what is no longer needed goes away."""
        return not (self.changes or self.runs or self.closes or self.first)

    @property
    def empty(self) -> bool:
        """Tell whether the node is as wanted."""
        return self.settled and not self.retires

    @property
    def upload(self) -> int:
        """Return how many bytes are sent, before compression."""
        return sum(change.wanted.size for change in self.changes if change.wanted.sent)


def _as_wanted(wanted: Wanted, seen: Seen | Text | None) -> bool:
    if seen is None:
        return False
    if wanted.is_text:
        executable = wanted.mode & 0o111
        return (
            isinstance(seen, Text)
            and seen.content == wanted.content
            and seen.mode & executable == executable
        )
    if not isinstance(seen, Seen):
        return False
    if wanted.target is not None:
        return seen.target == wanted.target
    return seen.sha256 == wanted.sha256 and seen.mode == wanted.mode and seen.target is None


def changes(wanted: Iterable[Wanted], facts: Facts) -> tuple[Change, ...]:
    """Return what has to be written so that the node is as wanted, in the order of ``wanted``."""
    found = []
    for one in wanted:
        seen = facts.texts.get(one.path) if one.is_text else facts.files.get(one.path)
        if not _as_wanted(one, seen):
            found.append(Change(one, seen))
    return tuple(found)


def obstacles(planned: Sequence[Change], facts: Facts) -> list[str]:
    """Return what on the node stands in the way of the changes, one line each."""
    wanted = {change.wanted.path for change in planned}
    found = [f"{path} is not a plain file" for path in facts.odd if path in wanted]
    found += [
        f"{change.place} is a {change.before.kind}"
        for change in planned
        if isinstance(change.before, Seen) and change.before.kind != "file"
    ]
    found += [
        f"{change.wanted.path} leads to {change.place!r}, which is not handled"
        for change in planned
        if not is_safe_path(change.place)
    ]
    used = {place(change) for change in planned}
    found += [f"{name} is read-only" for name in facts.readonly if name in used]
    return found


def place(change: Change) -> str:
    """Return the name under which the facts know a change's file system."""
    path = change.place
    names = ("/boot", "/lib/modules", "/usr/local", "/var", "/etc")
    return next((name for name in names if path.startswith(name + "/")), "/etc")


def lack_of_space(planned: Sequence[Change], facts: Facts) -> list[str]:
    """Return the file systems without room for the changes, one line each."""
    need: dict[str, int] = {}
    free: dict[str, int] = {}
    inodes: dict[str, int] = {}
    for change in planned:
        targets = [] if change.wanted.absent else [(place(change), change.wanted.size)]
        if change.before is not None and change.backed_up:
            targets.append(("/var", change.before.size))
        for name, count in targets:
            space = facts.space.get(name)
            if space is not None:
                blocks = -(-count // _BLOCK) * _BLOCK
                need[space.mount] = need.get(space.mount, _RESERVE) + blocks
                free[space.mount] = space.free
                inodes[space.mount] = inodes.get(space.mount, _DIRECTORIES) + 1
    # Btrfs and others count no inodes: they say that they have 0.
    few = [m for m, count in inodes.items() if 0 < facts.inodes.get(m, 0) < count]
    return [
        f"not enough inodes on {mount}: {inodes[mount]} needed, {facts.inodes[mount]} free"
        for mount in few
    ] + [
        f"not enough space on {mount}: {size(need[mount])} needed, {size(free[mount])} free"
        for mount in need
        if need[mount] > free[mount]
    ]


def size(count: int) -> str:
    """Return a number of bytes as people read it."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


# --- showing ------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Return text from a node with its control characters made visible and harmless."""
    if text.isprintable():
        return text
    return "".join(c if c == "\t" or c.isprintable() else f"\\x{ord(c):02x}" for c in text)


# GRUB fills its environment block with hundreds of one sign: nobody wants to see them all.
_FILLING = re.compile(r"(.)\1{63,}")


def _lines(content: bytes) -> list[str]:
    text = _FILLING.sub(
        lambda found: f"{found[1] * 4}[{len(found[0])} times]", content.decode("utf-8", "replace")
    )
    lines = [plain(line) for line in text.split("\n")]
    last = lines.pop()
    return [*lines, f"{last} (no line end)"] if last else lines


def diff(change: Change) -> str:
    """Return the unified diff of a configuration file."""
    assert change.wanted.content is not None
    before = change.before.content if isinstance(change.before, Text) else b""
    old = "/dev/null" if change.before is None else change.place
    text = _unified(old, change.place, before, change.wanted.content)
    # Content that is as wanted under permissions that are not.
    return text or f"mode of {change.place}: {change.mode:04o}"


# Most files are the same on all nodes.
@functools.lru_cache(maxsize=64)
def _unified(old: str, new: str, before: bytes, after: bytes) -> str:
    lines = difflib.unified_diff(_lines(before), _lines(after), old, new, lineterm="")
    return "\n".join(lines)


def _size(change: Change) -> int:
    if change.wanted.absent and change.before is not None:
        return change.before.size
    return change.wanted.size


def _describe(planned: Sequence[Change], verbose: bool, diffs: bool) -> Iterator[str]:
    """Yield one text per thing a person wants to see: a diff, a file, a directory of files."""
    files: dict[tuple[str, str], list[Change]] = {}
    for change in planned:
        if not (change.wanted.is_text and diffs):
            files.setdefault((place(change), change.verb), []).append(change)
    for (name, verb), group in files.items():
        # What is replaced may be somebody else's: it is always named.
        if len(group) <= 12 or verbose or any(change.foreign for change in group):
            for change in group:
                what = f" -> {change.wanted.target}" if change.wanted.target else ""
                kept = "; the old one is kept" if change.backed_up else ""
                yield f"{verb} {change.place}{what} ({_size(change):,} bytes{kept})"
        else:
            total = sum(map(_size, group))
            top = _common(change.place for change in group) or name
            yield f"{verb} {len(group)} files below {top} ({total:,} bytes; --verbose names them)"
    for change in planned:
        if change.wanted.is_text and diffs:
            yield diff(change)


def _common(paths: Iterable[str]) -> str:
    split = [path.split("/")[:-1] for path in paths]
    shared = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "/".join(shared)


def fold(names: Iterable[str]) -> str:
    """Return node names as a node set: krg[1-3,10]."""
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet

    return str(NodeSet.fromlist(list(names), resolver=RESOLVER_NOGROUP))


def show(
    plans: Iterable[Plan], *, verbose: bool = False, diffs: bool = True
) -> Iterator[tuple[str, str]]:
    """Yield (node set, text) for everything the plans do, identical texts only once.

    :param verbose: name every file.
    :param diffs: show settings as diffs, not by their names only.
    """
    return folded((plan.name, _texts(plan, verbose, diffs)) for plan in plans)


def _texts(plan: Plan, verbose: bool, diffs: bool) -> list[str]:
    return [
        *(f"problem: {problem}" for problem in plan.problems),
        *(f"run {command}" for command in plan.first),
        *_describe(plan.changes, verbose, diffs),
        *(f"close the journal of {name}" for name in plan.closes),
        *(f"run {command}" for command in plan.runs),
        *map(_retires, plan.retires),
        *(f"remove {path} (nothing needs it any more)" for path in plan.drops),
        *(f"note: {note}" for note in plan.notes),
    ]


def _retires(one: Retired) -> str:
    how = one.command or f"/boot/*-{one.release} and /lib/modules/{one.release}"
    return (
        f"remove the build {one.release}, deployed {one.date} and in no boot entry any more: {how}"
    )


def folded(texts_of: Iterable[tuple[str, Iterable[str]]]) -> Iterator[tuple[str, str]]:
    """Yield (node set, text) out of (node, its texts): identical texts only once.

    Texts hold words of nodes: of control characters only line ends are left in them.
    """
    groups: dict[str, list[str]] = {}
    for name, texts in texts_of:
        for text in texts:
            groups.setdefault(text, []).append(name)
    # What concerns the same nodes stands together.
    together: dict[tuple[str, ...], list[str]] = {}
    for text, names in groups.items():
        together.setdefault(tuple(names), []).append(text)
    for nodes, same in together.items():
        yield fold(nodes), "\n".join(plain(line) for text in same for line in text.split("\n"))


def as_plan_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as values for JSON."""

    def one(change: Change) -> Mapping[str, Any]:
        before = change.before
        return {
            "path": change.place,
            "action": change.verb,
            "before": None if before is None else before.sha256,
            "after": None if change.wanted.absent else change.wanted.sha256,
            "bytes": change.wanted.size,
            "kept": change.backed_up,
            **({"diff": diff(change)} if change.wanted.is_text else {}),
        }

    return {
        "changes": [one(change) for change in plan.changes],
        "first": list(plan.first),
        "runs": list(plan.runs),
        "problems": list(plan.problems),
        "notes": list(plan.notes),
        "closes": list(plan.closes),
        "drops": list(plan.drops),
        "retires": [one.release for one in plan.retires],
        "made_from": {**dict(plan.made_from.words), "files": dict(plan.made_from.files)},
    }
