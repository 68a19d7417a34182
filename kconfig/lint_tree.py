# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks a configuration against the tree it is for: what the tree does not take as it stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import kconfiglib
from kconfiglib import BOOL, HEX, INT, TRISTATE, expr_value

from kconfig import explain, reading, tree
from kconfig.config_file import Assignment, ConfigFile
from kconfig.errors import KconfigError
from kconfig.finding import Finding
from kconfig.lint import Subject, setting
from kconfig.nearest import Nearest

_TRUTH = (BOOL, TRISTATE)
_DEFAULT_ARCH = "x86_64"


@dataclass
class Trees:
    """A loaded tree, and the names that another version of it defines, if one was given."""

    kconf: kconfiglib.Kconfig
    version: tree.KernelVersion
    names: Nearest
    other: frozenset[str] | None = None
    other_version: tree.KernelVersion | None = None
    _has: ConfigFile | None = field(default=None, init=False, repr=False)

    def read(self, config: ConfigFile) -> None:
        """Give the tree the values of ``config`` and no others, unless it has just these.

        All assignments are read: which one counts is the tree's affair.
        """
        if self._has is not config:
            self._has = None
            reading.forget(self.kconf)
            reading.read(self.kconf, _lines(config.assignments), self.version.numbers)
            self._has = config


def arch_of(directory: Path, arch: str) -> str:
    """Return ``arch``, or the default one when it is "".

    :raises KconfigError: the tree has no such architecture, or is none.
    """
    known = tree.arches(directory)
    arch = arch or _DEFAULT_ARCH
    if arch in known:
        return arch
    # i386 and x86_64 have one directory since 2.6.24.
    if tree.settings(directory, arch)["SRCARCH"] in known:
        return arch
    raise KconfigError(f"{directory}: has no architecture {arch} (it has: {', '.join(known)})")


def load(directory: Path, arch: str, other: Path | None = None, *, shell: bool = True) -> Trees:
    """Load a tree, and the names in another one.

    :param shell: whether the trees may run commands, see kconfig.tree.load.
    :raises KconfigError: one of them is not a kernel tree, or has a syntax error.
    """
    kconf = tree.load(directory, arch, shell=shell, help_texts=False)
    version = tree.kernel_version(directory)
    nearest = Nearest(symbol.name for symbol in kconf.unique_defined_syms)
    if other is None:
        return Trees(kconf, version, nearest)
    there = tree.load(other, arch_of(other, arch), shell=shell, help_texts=False)
    names = frozenset(symbol.name for symbol in there.unique_defined_syms)
    return Trees(kconf, version, nearest, names, tree.kernel_version(other))


def final_values(config: ConfigFile, trees: Trees) -> dict[str, str]:
    """Return the value that each symbol of the tree has in the end."""
    trees.read(config)
    return {symbol.name: symbol.str_value for symbol in trees.kconf.unique_defined_syms}


def lint(subject: Subject, trees: Trees) -> list[Finding]:
    """Return what the tree would not take as the file has it.

    The values of ``trees.kconf`` are replaced by the file's.
    """
    trees.read(subject.config)
    assigned = subject.assigned
    silent = _silent(assigned, trees.kconf)
    return [
        *_unknown(subject.config.name, assigned, trees),
        *_not_kept(subject.config.name, assigned, trees.kconf, whole=silent is not None),
        *_new(subject.config.name, silent or [], trees),
        *_forced(subject.config.name, assigned, trees.kconf),
    ]


def as_text(config: ConfigFile) -> str:
    """Return the assignments as a .config, all of them: which one counts is the tree's affair."""
    return "\n".join(_lines(config.assignments)) + "\n"


def _lines(assignments: Iterable[Assignment]) -> Iterator[str]:
    for entry in assignments:
        if entry.quoted:
            yield f'CONFIG_{entry.symbol}="{kconfiglib.escape(entry.value)}"'
        elif entry.value == "n":
            yield f"# CONFIG_{entry.symbol} is not set"
        else:
            yield f"CONFIG_{entry.symbol}={entry.value}"


def _defined(kconf: kconfiglib.Kconfig, name: str) -> kconfiglib.Symbol | None:
    symbol = kconf.syms.get(name)
    return symbol if symbol is not None and symbol.nodes else None


def _place(symbol: kconfiglib.Symbol) -> str:
    node = symbol.nodes[0]
    return f"{node.filename}:{node.linenr}"


def _unknown(name: str, assigned: Mapping[str, Assignment], trees: Trees) -> Iterator[Finding]:
    for symbol, entry in assigned.items():
        if _defined(trees.kconf, symbol) is not None:
            continue
        why = f"Linux {trees.version} has no such symbol; the line is dropped without a word"
        fix = "remove the line"
        if trees.other is not None and symbol in trees.other:
            assert trees.other_version is not None
            older = trees.other_version.numbers < trees.version.numbers
            why += (
                f": removed since {trees.other_version}"
                if older
                else f": added by {trees.other_version}"
            )
        elif near := trees.names.to(symbol):
            fix = f"perhaps {setting(near, entry.value)}"
        severity = "info" if entry.value == "n" else "recommended"
        yield Finding(
            "tree/unknown", severity, symbol, entry.value, "", why, "", fix, name, entry.line
        )


def _same(symbol: kconfiglib.Symbol, entry: Assignment) -> bool:
    value = symbol.str_value
    if value == entry.value:
        return True
    if symbol.orig_type in (INT, HEX) and len(entry.value) < 40:
        base = 10 if symbol.orig_type == INT else 16
        try:
            return int(value, base) == int(entry.value, base)
        except ValueError:
            return False
    return False


def _not_kept(
    name: str, assigned: Mapping[str, Assignment], kconf: kconfiglib.Kconfig, *, whole: bool
) -> Iterator[Finding]:
    for given, entry in assigned.items():
        symbol = _defined(kconf, given)
        if symbol is None or _same(symbol, entry):
            continue
        value = symbol.str_value or "empty"
        truth = symbol.orig_type in _TRUTH
        if truth and entry.quoted:
            why, severity = "it is not a string: values are y, m and n, without quotes", "required"
        else:
            why = explain.obstacle(symbol, entry.value)
            # That something more is on is less of a surprise than that something is off.
            severity = "recommended" if truth and value != "n" else "required"
        fix = f"meet what it needs, or write {setting(given, symbol.str_value)}"
        source = _place(symbol)
        if whole and not any(node.prompt for node in symbol.nodes):
            # In a whole .config the kernel's tool wrote it, nobody chose it.
            severity, fix, source = "info", f"none: {why}", ""
            why = "nobody sets it: it follows from other values, or from the tools of this machine"
        rule = "tree/module" if truth and entry.value == "m" and value == "y" else "tree/not-kept"
        yield Finding(
            rule, severity, given, f"{value} in the end", entry.value or '""', why, source,
            fix, name, entry.line,
        )  # fmt: skip


def _silent(
    assigned: Mapping[str, Assignment], kconf: kconfiglib.Kconfig
) -> list[kconfiglib.Symbol] | None:
    """Return what the tree asks for and the file is silent about; None for a fragment."""
    asked = [
        symbol
        for symbol in kconf.unique_defined_syms
        if symbol.visibility and symbol.orig_type != kconfiglib.UNKNOWN
    ]
    silent = [
        symbol
        for symbol in asked
        if symbol.name not in assigned
        and not (symbol.choice and any(s.name in assigned for s in symbol.choice.syms))
    ]
    return None if 2 * len(silent) > len(asked) else silent


def _new(name: str, silent: Iterable[kconfiglib.Symbol], trees: Trees) -> Iterator[Finding]:
    for symbol in silent:
        why = "the tree asks for it and the file has no line; it gets its default"
        if trees.other is not None and symbol.name not in trees.other:
            why += f" (not in {trees.other_version})"
        yield Finding(
            "tree/new", "info", symbol.name, symbol.str_value or "empty", "", why, "",
            setting(symbol.name, symbol.str_value), name, 0,
        )  # fmt: skip


def _forced(
    name: str, assigned: Mapping[str, Assignment], kconf: kconfiglib.Kconfig
) -> Iterator[Finding]:
    """Find symbols that a select turned on although what they need is off."""
    for symbol in kconf.unique_defined_syms:
        if symbol.orig_type not in _TRUTH or not symbol.tri_value or symbol.choice is not None:
            continue
        forced, allowed = expr_value(symbol.rev_dep), expr_value(symbol.direct_dep)
        if symbol.type == BOOL and allowed == 1:
            allowed = 2
        if forced <= allowed:
            continue
        by = [
            kconfiglib.expr_str(part)
            for part in kconfiglib.split_expr(symbol.rev_dep, kconfiglib.OR)
            if expr_value(part) > allowed
        ]
        needs = " and ".join(explain.unmet(symbol.direct_dep, forced, kconf)) or "less"
        entry = assigned.get(symbol.name)
        yield Finding(
            "tree/forced", "recommended", symbol.name, symbol.str_value, "",
            f"selected by {', '.join(by)} although it needs {needs}; select asks for nothing",
            _place(symbol), "meet what it needs", name, entry.line if entry else 0,
        )  # fmt: skip
