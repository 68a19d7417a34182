# SPDX-License-Identifier: GPL-2.0-or-later
"""What differs between two configurations, and which differences matter to a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kconfig.condition import hold
from kconfig.config_file import Assignment, ConfigFile
from kconfig.policy import Policy, Version, applicable
from kconfig.report import printable

NO_MENU = "(not in a menu)"


class Verdict(NamedTuple):
    """What a rule says of a change: ``breaks`` it, ``meets`` it, or ``still wrong``."""

    rule: str
    says: str
    why: str


class Change(NamedTuple):
    """One symbol; None where a file does not set it. ``menu`` is its path, when a tree tells."""

    symbol: str
    before: str | None
    after: str | None
    menu: str
    verdicts: tuple[Verdict, ...]


def diff(
    a: ConfigFile,
    b: ConfigFile,
    policies: Sequence[Policy] = (),
    *,
    version: Version | None = None,
    arch: str = "",
    menus: Mapping[str, str] | None = None,
) -> list[Change]:
    """Return the changes from ``a`` to ``b``, in the order of menus, then of names.

    Not set and ``is not set`` are the same: a kernel built with either is the same.
    """
    before, after = a.values(version), b.values(version)
    places = menus or {}
    order = {name: number for number, name in enumerate(places)}
    verdicts = _verdicts(before, after, policies, version or b.version, arch or b.arch)
    changes = [
        Change(
            symbol, _shown(before, symbol), _shown(after, symbol), places.get(symbol, NO_MENU),
            tuple(verdicts.get(symbol, ())),
        )
        for symbol in {**before, **after}
        if _value(before, symbol) != _value(after, symbol)
    ]  # fmt: skip
    # A menu goes on behind those in it: it is shown once, where it begins.
    first: dict[str, int] = {}
    for name, menu in places.items():
        first.setdefault(menu, order[name])
    last = len(order)
    return sorted(
        changes, key=lambda c: (first.get(c.menu, last), order.get(c.symbol, last), c.symbol)
    )


def _value(values: Mapping[str, Assignment], symbol: str) -> tuple[str, bool]:
    entry = values.get(symbol)
    return (entry.value, entry.quoted) if entry else ("n", False)


def _shown(values: Mapping[str, Assignment], symbol: str) -> str | None:
    entry = values.get(symbol)
    if entry is None:
        return None
    return f'"{entry.value}"' if entry.quoted else entry.value


def _verdicts(
    before: Mapping[str, Assignment],
    after: Mapping[str, Assignment],
    policies: Sequence[Policy],
    version: Version | None,
    arch: str,
) -> dict[str, list[Verdict]]:
    values = {name: entry.value for name, entry in after.items()}
    verdicts: dict[str, list[Verdict]] = {}
    for policy in policies:
        for rule in applicable(policy.rules, version, arch)[0]:
            if rule.any or (rule.when and not hold(rule.when, values, {})):
                continue
            for symbol in rule.symbols:
                was = rule.want.accepts(_value(before, symbol)[0])
                now = rule.want.accepts(_value(after, symbol)[0])
                if was and now:
                    continue
                says = "meets" if now else ("breaks" if was else "still wrong")
                verdicts.setdefault(symbol, []).append(Verdict(rule.name, says, rule.why))
    return verdicts


def menus_of(tree: Path, arch: str, *, shell: bool = True) -> dict[str, str]:
    """Return the menu of each symbol of a tree, as ``A > B``, in the tree's order.

    :raises KconfigError: not a tree, or one with a syntax error.
    """
    import kconfiglib

    from kconfig.lint_tree import arch_of
    from kconfig.tree import load

    menus: dict[str, str] = {}
    kconf = load(tree, arch_of(tree, arch), shell=shell)
    for node in kconf.node_iter():
        if isinstance(node.item, kconfiglib.Symbol) and node.item.name not in menus:
            path: list[str] = []
            above = node.parent
            while above is not None and above is not kconf.top_node:
                # A menu and the option that opens it often have one name.
                if above.prompt and path[-1:] != [above.prompt[0]]:
                    path.append(above.prompt[0])
                above = above.parent
            menus[node.item.name] = " > ".join(reversed(path)) or NO_MENU
    return menus


def as_text(changes: Sequence[Change]) -> str:
    """Return what people read: by menu, what matters to a policy marked with its rule."""
    lines: list[str] = []
    menu = None
    told = set()
    width = min(max((len(c.symbol) for c in changes), default=0), 40)
    for change in changes:
        if change.menu != menu and any(c.menu != NO_MENU for c in changes):
            menu = change.menu
            lines += ["", printable(menu)] if lines else [printable(menu)]
        before = "-" if change.before is None else printable(change.before)
        after = "-" if change.after is None else printable(change.after)
        mark = "!" if any(v.says == "breaks" for v in change.verdicts) else " "
        lines.append(f"{mark} {change.symbol:<{width}} {before} -> {after}")
        for verdict in change.verdicts:
            why = "" if verdict.rule in told else f": {printable(verdict.why)}"
            told.add(verdict.rule)
            lines.append(f"    {verdict.says} {verdict.rule}{why}")
    broken = sum(any(v.says == "breaks" for v in c.verdicts) for c in changes)
    if not changes:
        return "no differences\n"
    lines.append(f"{len(changes)} differ, {broken} against the policy")
    return "\n".join(lines) + "\n"


def as_json(changes: Sequence[Change]) -> str:
    """Return one object per change."""
    import json

    entries = [c._asdict() | {"verdicts": [v._asdict() for v in c.verdicts]} for c in changes]
    return json.dumps({"format": 1, "changes": entries}, indent=1) + "\n"
