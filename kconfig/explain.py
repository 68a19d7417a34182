# SPDX-License-Identifier: GPL-2.0-or-later
"""Says why a symbol has its value: the dependency, choice or select that decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import kconfiglib
from kconfiglib import (
    AND,
    BOOL,
    NOT,
    OR,
    STR_TO_TRI,
    TRI_TO_STR,
    TRISTATE,
    expr_str,
    split_expr,
)

from kconfig.solve import evaluator

_TRUTH = (BOOL, TRISTATE)
# A chain longer than this is cut: what comes after is found by asking about its last symbol.
_LONGEST = 8
# Of a symbol selected by hundreds, so many are named.
_NAMED = 6
# Symbol -> line of the configuration that gives it its value, and that value.
Lines = Mapping[str, tuple[int, str]]
_NO_LINES: Lines = MappingProxyType({})


class Reason(NamedTuple):
    """One link of a chain: ``text``, and why that is so."""

    text: str
    because: tuple[Reason, ...] = ()

    def lines(self, indent: str = "") -> Iterator[str]:
        """Return it as text, a line for each link, what is deeper further in."""
        yield indent + self.text
        for reason in self.because:
            yield from reason.lines(indent + "  ")


def obstacle(symbol: kconfiglib.Symbol, want: str) -> str:
    """Return what stood in the way of ``want``, such as "needs NET, which is n".

    :param symbol: a defined symbol whose value is not ``want``.
    """
    reasons = why_not(symbol, want, depth=1)
    needs = [reason.text for reason in reasons if reason.text.startswith("needs ")]
    if len(needs) == len(reasons) > 1:
        return "needs " + " and ".join(text.removeprefix("needs ") for text in needs)
    return "; ".join(reason.text for reason in reasons)


def chain(symbol: kconfiglib.Symbol, want: str, lines: Lines = _NO_LINES) -> str:
    """Return the obstacle and, indented below it, what is behind each part of it."""
    behind = [line for r in why_not(symbol, want, lines) for b in r.because for line in b.lines()]
    return "\n    ".join([obstacle(symbol, want), *behind])


def why_not(
    symbol: kconfiglib.Symbol, want: str, lines: Lines = _NO_LINES, depth: int = _LONGEST
) -> tuple[Reason, ...]:
    """Return the reasons why ``symbol`` does not have the value ``want``.

    :param lines: where the configuration gives symbols their values, if known.
    :param depth: how many links of each chain are followed.
    """
    return _Asker(symbol.kconfig, lines).why_not(symbol, want, depth)


def why(symbol: kconfiglib.Symbol, lines: Lines = _NO_LINES) -> tuple[Reason, ...]:
    """Return where the value that ``symbol`` has comes from."""
    return _Asker(symbol.kconfig, lines).why(symbol, _LONGEST)


def unmet(condition: Any, level: int, kconf: kconfiglib.Kconfig) -> list[str]:
    """Return the parts of ``condition`` that are below ``level``, with their values."""
    asker = _Asker(kconf, _NO_LINES)
    return [reason.text for reason in asker.unmet(condition, level, 1)]


class _Asker:
    def __init__(self, kconf: kconfiglib.Kconfig, lines: Lines) -> None:
        self.value = evaluator(kconf)
        self.lines = lines
        self.asked: set[tuple[str, str]] = set()

    def why_not(self, symbol: Any, want: str, depth: int) -> tuple[Reason, ...]:
        if symbol.orig_type not in _TRUTH:
            return self._text(symbol, want, depth)
        if want not in STR_TO_TRI:
            return (Reason(f"a {kconfiglib.TYPE_TO_STR[symbol.orig_type]} cannot be {want!r}"),)
        level = STR_TO_TRI[want]
        if level == 1 and symbol.type == BOOL:
            never = "it is y or n, never m" if symbol.orig_type == BOOL else "modules are off"
            return (Reason(never),)
        if symbol.tri_value > level:
            return self.too_high(symbol, level, depth)
        return self.too_low(symbol, level, depth)

    def _text(self, symbol: Any, want: str, depth: int) -> tuple[Reason, ...]:
        missing = self.needs(symbol.direct_dep, 1, depth)
        if missing:
            return missing
        if not any(node.prompt for node in symbol.nodes):
            return (Reason("it has no prompt: its value follows from its defaults"),)
        if not symbol.visibility:
            return self._hidden(symbol, 1, depth)
        for low, high, condition in symbol.ranges:
            if self.value(condition):
                bounds = f"{low.str_value} to {high.str_value}"
                return (Reason(f"{want!r} is not a value it accepts: that is {bounds}"),)
        return (Reason(f"{want!r} is not a value it accepts"),)

    def _hidden(self, symbol: Any, level: int, depth: int) -> tuple[Reason, ...]:
        """Return what keeps the prompts of a symbol below ``level``."""
        prompts = [node.prompt[1] for node in symbol.nodes if node.prompt]
        hidden = [r for condition in prompts for r in self.needs(condition, level, depth)]
        return tuple(Reason(f"its prompt {r.text}", r.because) for r in hidden)

    def too_high(self, symbol: Any, level: int, depth: int) -> tuple[Reason, ...]:
        """Return why a symbol is more than ``level``."""
        by = [part for part in split_expr(symbol.rev_dep, OR) if self.value(part) > level]
        if by:
            selectors = [_selector(part) for part in by[:_NAMED]]
            named = ", ".join(map(expr_str, selectors))
            more = f" and {len(by) - _NAMED} more" if len(by) > _NAMED else ""
            behind = [r for one in selectors for r in self._behind(one, "high", 0, depth)]
            return (Reason(f"selected by {named}{more}", tuple(behind)),)
        if symbol.choice is not None and symbol.choice.selection is symbol:
            return (Reason(f"it is what the choice {_choice(symbol.choice)} has"),)
        if symbol.visibility == 0:
            said = f"it cannot be set here, and its default is {symbol.str_value}"
            return (Reason(said),)
        return (Reason("the tree allows no lower value"),)

    def too_low(self, symbol: Any, level: int, depth: int) -> tuple[Reason, ...]:
        """Return why a symbol is less than ``level``."""
        enough = 1 if symbol.orig_type is BOOL else level
        missing = self.needs(symbol.direct_dep, enough, depth)
        if missing:
            return missing
        choice = symbol.choice
        if choice is not None:
            taken = choice.selection
            if taken is not None and taken is not symbol:
                return (Reason(f"the choice {_choice(choice)} has {taken.name}"),)
            missing = self.needs(choice.direct_dep, enough, depth)
            if missing:
                return (Reason(f"the choice {_choice(choice)} " + missing[0].text),)
        if not any(node.prompt for node in symbol.nodes):
            return (self._only_selected(symbol, depth),)
        return self._hidden(symbol, enough, depth) or (Reason("unknown to this program"),)

    def _only_selected(self, symbol: Any, depth: int) -> Reason:
        if symbol.rev_dep is symbol.kconfig.n:
            if symbol.defaults:
                return self._default_too_low(symbol, depth)
            return Reason("it has no prompt, and nothing selects it")
        parts = split_expr(symbol.rev_dep, OR)
        more = f" and {len(parts) - _NAMED} more" if len(parts) > _NAMED else ""
        named = " or ".join(expr_str(_selector(part)) for part in parts[:_NAMED])
        behind = self._behind(parts[0], "low", 2, depth) if len(parts) == 1 else ()
        turn = "turns" if len(parts) == 1 else "turn"
        return Reason(f"it has no prompt: only {named}{more} {turn} it on", tuple(behind))

    def _default_too_low(self, symbol: Any, depth: int) -> Reason:
        """Return why a symbol that only its defaults turn on is off."""
        said: list[str] = []
        behind: list[Reason] = []
        for value, condition in symbol.defaults[:_NAMED]:
            when = "" if condition is symbol.kconfig.y else f" if {expr_str(condition)}"
            said.append(f"{expr_str(value)}{when}")
            holds = self.value(condition) > 0
            behind += self._behind(value if holds else condition, "low", 1, depth)
            if holds:  # those after it do not count
                break
        more = "; ..." if len(symbol.defaults) > len(said) == _NAMED else ""
        return Reason(
            f"it has no prompt, and its default is {'; '.join(said)}{more}", tuple(behind)
        )

    def needs(self, condition: Any, level: int, depth: int) -> tuple[Reason, ...]:
        """Return a reason for each part of a condition that is below ``level``."""
        return tuple(
            Reason(f"needs {reason.text}", reason.because)
            for reason in self.unmet(condition, level, depth)
        )

    def unmet(self, condition: Any, level: int, depth: int) -> tuple[Reason, ...]:
        """The same, without the word."""
        if self.value(condition) >= level:
            return ()
        reasons: dict[str, Reason] = {}
        for part in split_expr(condition, AND):
            value = self.value(part)
            if value >= level or isinstance(part, kconfiglib.Choice):
                continue
            text = f"{expr_str(part)}, which is {TRI_TO_STR[value]}"
            if isinstance(part, kconfiglib.Symbol) and not (part.nodes or part.is_constant):
                text = f"{part.name}, which this tree does not have"
            elif isinstance(part, kconfiglib.Symbol) and part.choice is not None:
                taken = part.choice.selection
                if taken is not None and taken is not part:
                    text += f" because the choice {_choice(part.choice)} has {taken.name}"
            if text not in reasons:
                reasons[text] = Reason(text, tuple(self._behind(part, "low", level, depth)))
        return tuple(reasons.values())

    def _behind(self, part: Any, way: str, level: int, depth: int) -> Iterator[Reason]:
        """Return why the symbols in a part of a condition are as they are."""
        if depth <= 1:
            return
        if part.__class__ is tuple:
            if part[0] is NOT:
                other = "high" if way == "low" else "low"
                yield from self._behind(part[1], other, 2 - level, depth)
            elif part[0] in (AND, OR):
                for one in split_expr(part, part[0]):
                    is_low = self.value(one) < level
                    if is_low if way == "low" else self.value(one) > level:
                        yield from self._behind(one, way, level, depth)
            return
        if not isinstance(part, kconfiglib.Symbol) or not part.nodes:
            return
        asked = (part.name, way)
        if asked in self.asked or part.orig_type not in _TRUTH:
            return
        self.asked.add(asked)
        yield from self._link(part, way, level, depth - 1)

    def _link(self, symbol: Any, way: str, level: int, depth: int) -> Iterator[Reason]:
        value = symbol.str_value
        if way == "high" or symbol.tri_value >= level:
            for reason in self.why(symbol, depth):
                yield Reason(f"{symbol.name} is {value}: {reason.text}", reason.because)
            return
        # What could be set, and is not, has only the configuration to blame.
        if symbol.visibility >= (1 if symbol.orig_type is BOOL else level):
            if symbol.choice is None:
                yield Reason(f"{symbol.name} is {value}: {self._given(symbol)}")
            return
        for reason in self.too_low(symbol, level, depth):
            yield Reason(f"{symbol.name} is {value}: {reason.text}", reason.because)

    def why(self, symbol: Any, depth: int) -> tuple[Reason, ...]:
        """Return where a value comes from."""
        if symbol.orig_type in _TRUTH:
            choice = symbol.choice
            if choice is not None:
                if choice.selection is symbol:
                    chosen = self._given(symbol)
                    return (Reason(f"the choice {_choice(choice)} has it: {chosen}"),)
                return self.too_low(symbol, 2, depth)
            if symbol.tri_value and self.value(symbol.rev_dep) >= symbol.tri_value:
                return self.too_high(symbol, symbol.tri_value - 1, depth)
            if not symbol.tri_value and not symbol.visibility:
                return self.too_low(symbol, 1, depth)
        elif not symbol.visibility and not self.value(symbol.direct_dep):
            return self.needs(symbol.direct_dep, 1, depth)
        return (Reason(self._given(symbol)),)

    def _given(self, symbol: Any) -> str:
        """Say who gives a value that nothing forces."""
        line, said = self.lines.get(symbol.name, (0, ""))
        if symbol.visibility and line:
            # m becomes y where modules are off, a number its bound.
            word = "so" if said == symbol.str_value else (said or "nothing")
            return f"line {line} of the configuration says {word}"
        if symbol.visibility and symbol.user_value is not None and not self.lines:
            return "the configuration says so"
        for value, condition in symbol.defaults:
            if self.value(condition):
                when = "" if condition is symbol.kconfig.y else f" if {expr_str(condition)}"
                return f"its default is {expr_str(value)}{when}"
        if symbol.orig_type in _TRUTH and self.value(symbol.weak_rev_dep):
            return f"implied by {expr_str(symbol.weak_rev_dep)}"
        return "it is not set, and has no default"


def _selector(part: Any) -> Any:
    """Return the symbol that selects, of a part such as ``A && condition``."""
    while part.__class__ is tuple and part[0] is AND:
        part = part[1]
    return part


def _choice(choice: kconfiglib.Choice) -> str:
    for node in choice.nodes:
        if node.prompt:
            return f"'{node.prompt[0]}'"
    return "without a name"
