# SPDX-License-Identifier: GPL-2.0-or-later
"""All there is to know about one symbol under one configuration, for people and programs."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import kconfiglib
from kconfiglib import BOOL, OR, TRISTATE, expr_str, split_expr

from kconfig import explain, solve
from kconfig.explain import Lines, Reason
from kconfig.report import printable
from kconfig.solve import Solution

_WIDTH = 96
# Lists longer than this are cut in the text; the JSON has all.
_SHOWN = 12
# The blank before "[=y]" or "y->n"; and what stands for it while lines are broken.
_BEFORE_VALUE = re.compile(r" (?=\[|[^ ,]+->)")
_HOLD = "\0"


class Selector(NamedTuple):
    """What selects or implies a symbol; ``on`` tells whether it does now."""

    what: str
    on: bool


class Definition(NamedTuple):
    """One place where a symbol is defined: menus from the top down, conditions with values."""

    place: str
    menus: tuple[str, ...]
    prompt: str
    prompt_if: str
    defaults: tuple[str, ...]
    ranges: tuple[str, ...]
    help: str


class Explanation(NamedTuple):
    """``ways`` has for each other value the shortest changes; None where there are none."""

    symbol: str
    kind: str
    value: str
    definitions: tuple[Definition, ...]
    depends: str
    selects: tuple[str, ...]
    selected_by: tuple[Selector, ...]
    implied_by: tuple[Selector, ...]
    choice: tuple[str, ...]
    why: tuple[Reason, ...]
    ways: Mapping[str, Solution | None]


def describe(
    symbol: kconfiglib.Symbol, lines: Lines, wants: Sequence[str] | None = None
) -> Explanation:
    """Explain ``symbol`` under the configuration loaded into its tree.

    :param lines: in which line the configuration gives each symbol which value.
    :param wants: the values to find a way to; None for all it does not have.
    """
    value = solve.evaluator(symbol.kconfig)
    truth = symbol.orig_type in (BOOL, TRISTATE)
    if wants is None:
        every = {BOOL: "yn", TRISTATE: "ymn"}.get(symbol.orig_type, "")
        wants = [want for want in every if want != symbol.str_value]
    return Explanation(
        symbol.name,
        kconfiglib.TYPE_TO_STR[symbol.orig_type],
        symbol.str_value,
        tuple(_definition(node) for node in symbol.nodes),
        "" if symbol.direct_dep is symbol.kconfig.y else with_values(symbol.direct_dep),
        tuple(_when(target.name, condition, symbol) for target, condition in symbol.selects),
        _selectors(symbol.rev_dep, value, symbol),
        _selectors(symbol.weak_rev_dep, value, symbol),
        tuple(member.name for member in symbol.choice.syms) if symbol.choice else (),
        explain.why(symbol, lines),
        {want: solve.solve(symbol.kconfig, symbol.name, want) for want in wants} if truth else {},
    )


def with_values(expression: Any) -> str:
    """Return an expression with each symbol's value behind it, as menuconfig shows it."""

    def one(item: Any) -> str:
        if item.__class__ is kconfiglib.Symbol and not item.is_constant:
            if item.nodes:
                return f"{item.name} [={item.str_value}]"
            # A number without quotes is a symbol to Kconfig.
            return str(item.name) + (" [unknown]" if item.name[0].isalpha() else "")
        return str(kconfiglib.standard_sc_expr_str(item))

    return str(expr_str(expression, one))


def _when(text: str, condition: Any, symbol: kconfiglib.Symbol) -> str:
    return text if condition is symbol.kconfig.y else f"{text} if {with_values(condition)}"


def _selectors(expression: Any, value: Any, symbol: kconfiglib.Symbol) -> tuple[Selector, ...]:
    if expression is symbol.kconfig.n:
        return ()
    parts = [Selector(with_values(part), value(part) > 0) for part in split_expr(expression, OR)]
    return tuple(sorted(parts, key=lambda part: not part.on))


def _definition(node: kconfiglib.MenuNode) -> Definition:
    menus = []
    parent = node.parent
    while parent is not None and parent is not node.kconfig.top_node:
        if parent.prompt:
            menus.append(parent.prompt[0])
        parent = parent.parent
    kconf = node.kconfig
    prompt, condition = node.prompt or ("", kconf.y)
    return Definition(
        f"{node.filename}:{node.linenr}",
        tuple(reversed(menus)),
        prompt,
        "" if condition is kconf.y or not node.prompt else with_values(condition),
        tuple(_when(with_values(v), c, node.item) for v, c in node.defaults),
        tuple(
            _when(f"{with_values(low)} to {with_values(high)}", c, node.item)
            for low, high, c in node.ranges
        ),
        node.help or "",
    )


def as_text(found: Explanation) -> str:
    """Return what a person reads."""
    return "\n".join(printable(line) for line in _lines(found)) + "\n"


def _lines(found: Explanation) -> Iterator[str]:
    yield f"{found.symbol} is {found.value or 'empty'} ({found.kind})"
    for reason in found.why:
        yield from reason.lines("  ")
    for definition in found.definitions:
        yield ""
        yield from _defined(definition)
    for title, text in (("depends on", found.depends), ("choice", " or ".join(found.choice))):
        if text:
            yield ""
            yield from _wrapped(title, text)
    if found.selects:
        yield ""
        yield from _listed("selects", found.selects)
    for title, selectors in (("selected by", found.selected_by), ("implied by", found.implied_by)):
        if selectors:
            yield ""
            marked = [f"{'*' if s.on else ' '} {s.what}" for s in selectors]
            yield from _listed(f"{title} (* does so now)", marked)
    for want, solution in found.ways.items():
        yield ""
        yield from way_lines(found.symbol, want, solution)


def _defined(definition: Definition) -> Iterator[str]:
    prompt = f' "{definition.prompt}"' if definition.prompt else ", no prompt"
    yield f"defined at {definition.place}{prompt}"
    if definition.menus:
        yield from _wrapped("menu", " > ".join(definition.menus))
    if definition.prompt_if:
        yield from _wrapped("asked if", definition.prompt_if)
    for default in definition.defaults:
        yield from _wrapped("default", default)
    for allowed in definition.ranges:
        yield from _wrapped("range", allowed)
    for paragraph in definition.help.rstrip().splitlines():
        yield from textwrap.wrap(
            paragraph, _WIDTH, initial_indent="  | ", subsequent_indent="  | "
        ) or ["  |"]


def _wrapped(title: str, text: str) -> list[str]:
    indent = " " * (len(title) + 4)
    # A symbol and its value stay on one line.
    held = _BEFORE_VALUE.sub(_HOLD, text)
    lines = textwrap.wrap(
        f"  {title}: {held}", _WIDTH, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return [line.replace(_HOLD, " ") for line in lines]


def _listed(title: str, items: Sequence[str]) -> Iterator[str]:
    yield f"  {title}:"
    for item in items[:_SHOWN]:
        yield f"    {item}"
    if len(items) > _SHOWN:
        yield f"    and {len(items) - _SHOWN} more (--format json has all)"


def way_lines(symbol: str, want: str, solution: Solution | None) -> Iterator[str]:
    """Say how a symbol gets a value, and what else happens then."""
    if solution is None:
        yield f"to make it {want}: no set of changes was found"
        return
    count = len(solution.changes)
    if not count:
        yield f"to make it {want}: nothing, it is"
        return
    set_size = "1 change" if count == 1 else f"{count} changes"
    shortest = "" if solution.shortest else ", perhaps not the fewest"
    yield f"to make it {want} ({set_size}{shortest}):"
    yield from textwrap.wrap(
        " ".join(f"--set {c.symbol}={c.value}" for c in solution.changes), _WIDTH,
        initial_indent="    ", subsequent_indent="    ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    if solution.effects:
        shown = [
            f"{e.symbol} {e.before or 'unset'}->{e.after or 'unset'}" for e in solution.effects
        ]
        more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        yield from _wrapped("also changes", ", ".join(shown[:_SHOWN]) + more)


def as_json(found: Sequence[Explanation]) -> str:
    """Return what a program reads: a list, one object for each symbol."""
    return json.dumps([_plain(one) for one in found], indent=1) + "\n"


def _plain(found: Explanation) -> dict[str, object]:
    return {
        **found._asdict(),
        "definitions": [definition._asdict() for definition in found.definitions],
        "selected_by": [selector._asdict() for selector in found.selected_by],
        "implied_by": [selector._asdict() for selector in found.implied_by],
        "why": [_nested(reason) for reason in found.why],
        "ways": {want: _way(solution) for want, solution in found.ways.items()},
    }


def _nested(reason: Reason) -> dict[str, object]:
    return {"text": reason.text, "because": [_nested(one) for one in reason.because]}


def _way(solution: Solution | None) -> dict[str, object] | None:
    if solution is None:
        return None
    return {
        "changes": [change._asdict() for change in solution.changes],
        "effects": [effect._asdict() for effect in solution.effects],
        "shortest": solution.shortest,
    }
