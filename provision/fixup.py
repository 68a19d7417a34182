# SPDX-License-Identifier: GPL-2.0-or-later
"""Applies fix-ups (data: fixups/*.toml) to an unpacked source tree.

A fix-up is an edit that old sources need for today's tools. It is found by a
regular expression, never by line number, so it survives patches around it, and
it knows what it looks like once done, so applying twice changes nothing.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from provision import tables
from provision.atomic import write_bytes
from provision.data import data_dir
from provision.errors import FailedError, InputError
from provision.tables import Table

# What a condition may name: versions of tools, or the architecture.
VERSION_FACTS = ("gcc", "binutils", "make", "kernel")
_EDIT_KEYS = {"file", "find", "put", "applied", "count"}
_CONDITION = re.compile(r"(>=|<=|==|!=|<|>)\s*(\d+(?:\.\d+)*)")
_OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Edit:
    """One replacement: in ``file`` (a glob below the tree), ``count`` places in all."""

    file: str
    find: re.Pattern[str]
    put: str
    applied: re.Pattern[str]
    count: int = 1


@dataclass(frozen=True)
class Fixup:
    """A named group of edits with its reason; applies when all conditions in ``when`` hold."""

    id: str
    why: str
    edits: tuple[Edit, ...]
    when: Mapping[str, str] = field(default_factory=dict)
    upstream: str | None = None

    def identity(self) -> object:
        """Return what decides the fix-up's effect: not its reasons."""
        edits = [(e.file, e.find.pattern, e.put, e.applied.pattern, e.count) for e in self.edits]
        return [self.id, edits, sorted(self.when.items())]

    def applies(self, facts: Mapping[str, str]) -> bool:
        """Tell whether every condition holds for ``facts`` (tool name to version, arch)."""
        return all(_holds(condition, facts[name]) for name, condition in self.when.items())


def version(text: str) -> tuple[int, ...]:
    """Return "2.6.20-krg" as (2, 6, 20); trailing zeros are dropped so that 4.0 equals 4."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    if not match:
        raise InputError(f"{text!r} does not begin with a version number")
    numbers = [int(part) for part in match[0].split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _holds(condition: str, have: str) -> bool:
    parts = [part.strip() for part in condition.split(",")]
    for part in parts:
        match = _CONDITION.fullmatch(part)
        if match is None:
            if part != have:
                return False
        elif not _OPERATORS[match[1]](version(have), version(match[2])):
            return False
    return True


def load(name: str) -> list[Fixup]:
    """Read shipped fix-ups by name, or a file when ``name`` ends in .toml.

    :raises InputError: names the file and what is wrong in it.
    """
    path = Path(name) if name.endswith(".toml") else data_dir("fixups") / f"{name}.toml"
    try:
        raw = tables.read(path, {"fixup"})
    except FileNotFoundError as error:
        raise InputError(f"no fix-ups called {name}") from error
    return [_fixup(one) for one in raw.tables("fixup", {"id", "why", "upstream", "when", "edit"})]


def _fixup(raw: Table) -> Fixup:
    raw.where += f" ({raw.text('id')})"
    when = raw.table("when", {*VERSION_FACTS, "arch"}).texts_by_key()
    edits = tuple(_edit(one) for one in raw.tables("edit", _EDIT_KEYS))
    if not edits:
        raise InputError(f"{raw.where}: there is no edit")
    return Fixup(raw.text("id"), raw.text("why"), edits, when, raw.maybe("upstream"))


def _edit(raw: Table) -> Edit:
    patterns = []
    for key in ("find", "applied"):
        try:
            patterns.append(re.compile(raw.text(key), re.MULTILINE))
        except re.error as error:
            raise InputError(f"{raw.where}: {key}: {error}") from error
    file = tables.below(raw.text("file"), raw.where)
    return Edit(file, patterns[0], raw.text("put"), patterns[1], raw.number("count", 1))


@dataclass(frozen=True)
class Outcome:
    """What became of a fix-up: applied, already there, or not needed with these tools."""

    id: str
    state: str


def apply(tree: Path, fixups: Sequence[Fixup], facts: Mapping[str, str]) -> list[Outcome]:
    """Apply to ``tree`` every fix-up whose conditions hold, in order.

    :param facts: versions of gcc, binutils, make and kernel, and arch.
    :raises FailedError: a fix-up does not fit the tree; the files of fix-ups
        before it have been changed, its own have not.
    """
    outcomes = []
    for fixup in fixups:
        if not fixup.applies(facts):
            outcomes.append(Outcome(fixup.id, "not needed"))
            continue
        changes = _changes(tree, fixup)
        for path, text in changes.items():
            write_bytes(path, text.encode("latin-1"))
        outcomes.append(Outcome(fixup.id, "applied" if changes else "already there"))
    return outcomes


def _changes(tree: Path, fixup: Fixup) -> dict[Path, str]:
    texts: dict[Path, str] = {}
    changed: dict[Path, str] = {}
    for edit in fixup.edits:
        paths = sorted(tree.glob(edit.file))
        for path in paths:
            if not path.resolve().is_relative_to(tree.resolve()):
                raise FailedError(f"fix-up {fixup.id}: {path} leads out of the tree")
        to_do = done = 0
        for path in paths:
            # Sources of that age mix encodings; latin-1 keeps every byte.
            text = texts.get(path)
            if text is None:
                text = path.read_bytes().decode("latin-1")
            done += len(edit.applied.findall(text))
            text, replaced = edit.find.subn(edit.put, text)
            to_do += replaced
            texts[path] = text
            if replaced:
                changed[path] = text
        if to_do + done != edit.count:
            found = f"{to_do} to change and {done} changed" if paths else "no such file"
            raise FailedError(
                f"fix-up {fixup.id} does not fit {tree / edit.file}: "
                f"expected {edit.count} place(s), found {found}",
                hint="is this the release's own source, patched only by its own patches?",
            )
    return changed
