# SPDX-License-Identifier: GPL-2.0-or-later
"""Values of symbols and choices by the rules of the tree's own age.

Kconfiglib computes values as the kernel's program of about Linux 5.0 does. After
loading, the symbols and choices of another tree are given a class from here, so that
everything that asks for a value (expressions, explanations, writers) gets
that of the tree. The rules, and the kernels they hold for, are in kconfig/dialect.py.
"""

from __future__ import annotations

from typing import Any

import kconfiglib
from kconfiglib import (
    AND,
    BOOL,
    EQUAL,
    HEX,
    INT,
    NOT,
    OR,
    TRI_TO_STR,
    TRISTATE,
    UNEQUAL,
    expr_value,
)

from kconfig import dialect
from kconfig.dialect import Version

_TRUTH = (BOOL, TRISTATE)
_BASE = {INT: 10, HEX: 16}
_ZERO = {INT: "0", HEX: "0x0"}


def adopt(kconf: kconfiglib.Kconfig, version: Version) -> None:
    """Give the symbols and choices of a freshly loaded tree the classes of its version."""
    if dialect.WEAK_IMPLY.holds(version):
        listed = dialect.LISTED_CHOICES.holds(version)
        zero = dialect.ZERO_NUMBERS.holds(version)
        for symbol in kconf.unique_defined_syms:
            if symbol.orig_type in _TRUTH:
                member = listed and symbol.choice is not None
                symbol.__class__ = _ListedSymbol if member else _LateSymbol
            elif symbol.orig_type in _BASE and zero:
                symbol.__class__ = _ZeroSymbol
        for choice in kconf.unique_choices if listed else ():
            choice.__class__ = _ListedChoice
        return
    if not dialect.EARLY_VALUES.holds(version):
        return
    capped = dialect.CAPPED_DEFAULTS.holds(version)
    for symbol in kconf.unique_defined_syms:
        symbol.__class__ = _CappedSymbol if capped else _EarlySymbol
    for choice in kconf.unique_choices:
        choice.__class__ = _EarlyChoice


def truth(expression: Any) -> int:  # noqa: PLR0911 # one for each operator
    """Return the value of an expression where = and != compare text."""
    if expression.__class__ is not tuple:
        return int(expression.tri_value)
    operator = expression[0]
    if operator is AND:
        # Both sides, as the program does: looking at a choice has an effect. And so has
        # asking if modules are on, which only a literal m (now m && MODULES) does.
        right = expression[2]
        if right.__class__ is not tuple and right is right.kconfig.modules:
            right.kconfig.modules_unasked &= expression[1] is not right.kconfig.m
        return min(truth(expression[1]), truth(right))
    if operator is OR:
        return max(truth(expression[1]), truth(expression[2]))
    if operator is NOT:
        return 2 - truth(expression[1])
    same = bool(expression[1].str_value == expression[2].str_value)
    if operator is EQUAL:
        return 2 * same
    if operator is UNEQUAL:
        return 2 * (not same)
    value: int = expr_value(expression)
    return value


def modules_on(kconf: Any) -> bool:
    """Return whether there are modules, as far as an old program knows."""
    return bool(not kconf.modules_unasked and kconf.modules.tri_value)


def without_not_n(expression: Any, kconf: kconfiglib.Kconfig) -> Any:
    """Return an expression with ``X != n`` made X."""
    if expression.__class__ is not tuple:
        return expression
    if expression[0] in (AND, OR):
        first = without_not_n(expression[1], kconf)
        return (expression[0], first, without_not_n(expression[2], kconf))
    if expression[0] is UNEQUAL and expression[2] is kconf.n:
        return expression[1]
    return expression


def bounds(symbol: Any) -> tuple[int, int] | None:
    """Return the range in force for a number."""
    evaluate = truth if isinstance(symbol, _EarlySymbol) else expr_value
    base = _BASE[symbol.orig_type]
    for low, high, condition in symbol.ranges:
        if evaluate(condition):
            return number(low.str_value, base), number(high.str_value, base)
    return None


class _EarlySymbol(kconfiglib.Symbol):  # type: ignore[misc] # the library has no types
    """A symbol in 2.6.25 to 2.6.36."""

    __slots__: tuple[str, ...] = tuple()
    # Kconfiglib asks ``x.__class__ is Symbol`` in many places.
    __class__ = kconfiglib.Symbol
    _cached_vis: int | None
    _cached_tri_val: int | None
    _cached_str_val: str | None
    _write_to_conf: bool

    @property
    def visibility(self) -> int:
        """The highest value a user can give."""
        if self._cached_vis is None and self._cached_tri_val is None:
            self.tri_value  # noqa: B018 # works out both, and ends loops
        return self._cached_vis if self._cached_vis is not None else self.look()

    def look(self) -> int:
        """Work out the visibility alone, as a choice does of its members."""
        self._cached_vis = self._visible()
        return self._cached_vis

    def _visible(self) -> int:
        level = 0
        for node in self.nodes:
            if node.prompt:
                if self.choice is not None:
                    self.choice.tri_value  # noqa: B018 # the program looks at it first
                level = max(level, truth(node.prompt[1]))
        if level == 1 and (self.orig_type is not TRISTATE or not modules_on(self.kconfig)):
            level = 2
        choice = self.choice
        if (
            choice is not None
            and choice.orig_type is TRISTATE
            and self.orig_type is not TRISTATE
            and choice.tri_value != 2
        ):
            return 0
        return level

    @property
    def type(self) -> int:
        """The type in force: a tristate is a bool without modules, or in a choice at y."""
        if self.orig_type is TRISTATE and (
            (self.choice is not None and self.visibility == 2) or not modules_on(self.kconfig)
        ):
            return int(BOOL)
        return int(self.orig_type)

    @property
    def tri_value(self) -> int:
        """0, 1 or 2."""
        if self._cached_tri_val is None:
            # What a symbol is to those that are asked for its value and need it themselves.
            self._cached_tri_val = 0
            if self.orig_type not in _TRUTH:
                return 0
            visible = self.visibility
            if self.choice is not None and visible == 2:
                self._cached_tri_val = 2 if self.choice.selection is self else 0
            else:
                self._cached_tri_val = self._truth(visible)
        return self._cached_tri_val

    def _truth(self, visible: int) -> int:
        selected = self.selected
        self._write_to_conf = bool(visible or selected)
        value = 0
        if visible and self.user_value is not None:
            value = min(self.user_value, visible)
        else:
            for default, condition in self.defaults:
                level = truth(condition)
                if level:
                    self._write_to_conf = True
                    value = min(truth(default), level)
                    break
        return self._promoted(max(value, selected))

    @property
    def selected(self) -> int:
        """The lowest value that selects leave; they do not reach members of choices."""
        return 0 if self.choice is not None else self._promoted(truth(self.rev_dep))

    def _promoted(self, value: int) -> int:
        return 2 if value == 1 and self.type is BOOL else value

    @property
    def str_value(self) -> str:
        """The value as text."""
        if self._cached_str_val is None:
            if self.orig_type in _TRUTH:
                self._cached_str_val = TRI_TO_STR[self.tri_value]
            elif not self.orig_type:
                self._cached_str_val = self.name
            else:
                visible = self.visibility
                self._cached_str_val = ""
                self._cached_str_val = self._text(visible)
        return self._cached_str_val

    def _text(self, visible: int) -> str:
        self._write_to_conf = visible != 0
        limits = bounds(self) if self.orig_type in _BASE else None
        base = _BASE.get(self.orig_type, 10)
        if visible and self.user_value is not None:
            text = str(self.user_value)
            if limits is None or limits[0] <= number(text, base) <= limits[1]:
                return text
        text = ""
        for default, condition in self.defaults:
            if truth(condition):
                self._write_to_conf = True
                text = str(default.str_value)
                break
        if limits is None or limits[0] <= number(text, base) <= limits[1]:
            return text
        nearest = limits[0] if number(text, base) < limits[0] else limits[1]
        return str(nearest) if self.orig_type is INT else hex(nearest)


class _CappedSymbol(_EarlySymbol):
    """A symbol before 2.6.25."""

    __slots__: tuple[str, ...] = tuple()
    __class__ = kconfiglib.Symbol

    def _truth(self, visible: int) -> int:
        selected = self.selected
        reachable = bool(visible or selected)
        self._write_to_conf = reachable
        value = 0
        if reachable and self.user_value is not None:
            value = self.user_value
        else:
            for default, condition in self.defaults:
                if truth(condition):
                    self._write_to_conf = True
                    value = truth(default)
                    break
        return self._promoted(max(min(value, visible), selected) if reachable else value)


class _LateSymbol(kconfiglib.Symbol):  # type: ignore[misc]
    """A bool or tristate from 5.7 on."""

    __slots__: tuple[str, ...] = tuple()
    __class__ = kconfiglib.Symbol
    _cached_tri_val: int | None
    _write_to_conf: bool

    @property
    def tri_value(self) -> int:
        """0, 1 or 2."""
        if self._cached_tri_val is None:
            visible = self.visibility
            self._write_to_conf = visible != 0
            if self.choice is None:
                self._cached_tri_val = self._truth(visible)
            elif visible == 2:
                self._cached_tri_val = 2 if self.choice.selection is self else 0
            else:
                self._cached_tri_val = 1 if visible and self.user_value else 0
        return self._cached_tri_val

    def _truth(self, visible: int) -> int:
        value = 0
        if visible and self.user_value is not None:
            value = min(self.user_value, visible)
        else:
            for default, condition in self.defaults:
                level = expr_value(condition)
                if level:
                    value = min(expr_value(default), level)
                    break
            if value:
                self._write_to_conf = True
            implied = self._promoted(expr_value(self.weak_rev_dep))
            if implied:
                self._write_to_conf = True
                met = self._promoted(expr_value(self.direct_dep))
                value = min(max(value, implied), met)
        selected = expr_value(self.rev_dep)
        if selected:
            self._write_to_conf = True
        return self._promoted(max(value, selected))

    def _promoted(self, value: int) -> int:
        return 2 if value == 1 and self.type is BOOL else value


class _ListedSymbol(_LateSymbol):
    """A member of a choice from 6.10 on."""

    __slots__: tuple[str, ...] = tuple()
    __class__ = kconfiglib.Symbol

    def set_value(self, value: Any) -> bool:
        """Give a value; the choice looks at the member given one last first."""
        done = bool(kconfiglib.Symbol.set_value(self, value))
        if done:
            turns = self.kconfig.turns.setdefault(self.choice, {})
            turns.pop(self, None)
            turns[self] = None
            self.choice._rec_invalidate()
        return done


class _ListedChoice(kconfiglib.Choice):  # type: ignore[misc]
    """A choice from 6.10 on: always bool, there when its dependencies are met."""

    __slots__: tuple[str, ...] = tuple()
    __class__ = kconfiglib.Choice

    @property
    def tri_value(self) -> int:
        """What its members can be."""
        # Kconfiglib lets changes reach only what has looked at its visibility.
        self.visibility  # noqa: B018
        return int(expr_value(self.direct_dep))

    def _selection(self) -> Any:
        turns = [s for s in reversed(self.kconfig.turns.get(self, {})) if s.user_value is not None]
        order = [*turns, *(s for s in self.syms if s not in turns)]
        shown = [s for s in order if s.visibility]
        for symbol in shown:
            if symbol.user_value == 2:
                return symbol
        default = self._selection_from_defaults()
        if default is not None and default.user_value != 0:
            return default
        for symbol in self.syms:
            if symbol.visibility and symbol.user_value is None:
                return symbol
        return shown[-1] if shown else None


class _ZeroSymbol(kconfiglib.Symbol):  # type: ignore[misc]
    """A number from 6.9 on."""

    __slots__: tuple[str, ...] = tuple()
    __class__ = kconfiglib.Symbol
    _cached_str_val: str | None
    _write_to_conf: bool

    @property
    def str_value(self) -> str:
        """The value as text."""
        if self._cached_str_val is None:
            visible = self.visibility
            self._write_to_conf = visible != 0
            self._cached_str_val = self._in_range(self._text(visible))
            if self.env_var is not None:
                self._write_to_conf = False
        return self._cached_str_val

    def _text(self, visible: int) -> str:
        if visible and self.user_value is not None:
            return str(self.user_value)
        text = _ZERO[self.orig_type]
        for default, condition in self.defaults:
            if expr_value(condition):
                self._write_to_conf = True
                text = str(default.str_value)
                break
        return text

    def _in_range(self, text: str) -> str:
        base = _BASE[self.orig_type]
        value = number(text, base)
        for low, high, condition in self.ranges:
            if expr_value(condition):
                if value < number(low.str_value, base):
                    return str(low.str_value)
                if value > number(high.str_value, base):
                    return str(high.str_value)
                break
        return text

    def _str_default(self) -> str:
        """Return what savedefconfig takes for the default."""
        return str(kconfiglib.Symbol._str_default(self)) or _ZERO[self.orig_type]


class _EarlyChoice(kconfiglib.Choice):  # type: ignore[misc]
    """A choice before 2.6.37."""

    __slots__: tuple[str, ...] = tuple()
    __class__ = kconfiglib.Choice
    _cached_vis: int | None
    _cached_selection: Any

    @property
    def type(self) -> int:
        """The type in force: a tristate is a bool without modules."""
        if self.orig_type is TRISTATE and not modules_on(self.kconfig):
            return int(BOOL)
        return int(self.orig_type)

    @property
    def visibility(self) -> int:
        """The highest mode a user can give."""
        if self._cached_vis is None:
            level = 0
            for node in self.nodes:
                if node.prompt:
                    level = max(level, truth(node.prompt[1]))
            if level == 1 and self.type is not TRISTATE:
                level = 2
            self._cached_vis = level
            if level:
                # Its members are written from now on, even if it disappears again.
                self.kconfig.shown_choices.add(self)
        return self._cached_vis

    @property
    def selected(self) -> int:
        """The lowest mode: a choice that is not optional is at least m."""
        if self.is_optional:
            return 0
        level = min(self.visibility, 1)
        return 2 if level == 1 and self.type is BOOL else level

    @property
    def tri_value(self) -> int:
        """The mode: 0, 1 or 2; working it out takes a member, too."""
        user = 0 if self.user_value is None else min(self.user_value, self.visibility)
        level = max(user, self.selected)
        if level == 1 and self.type is BOOL:
            level = 2
        if level == 2 and self._cached_selection is kconfiglib._NO_CACHED_SELECTION:
            # Who asks meanwhile, because a member needs it, is told that none is taken.
            self._cached_selection = None
            self._cached_selection = self._selection()
        return level

    @property
    def selection(self) -> Any:
        """The member that is taken, or None."""
        return self._cached_selection if self.tri_value == 2 else None

    def _selection(self) -> Any:
        if self.user_selection is not None and self.user_selection.look():
            return self.user_selection
        return self._selection_from_defaults()

    def _selection_from_defaults(self) -> Any:
        for symbol, condition in self.defaults:
            # What is defined nowhere, be it a name or a text in quotes, is invisible
            # (sym_calc_visibility, scripts/kconfig/symbol.c of Linux 2.6.20).
            if truth(condition) and symbol.nodes and symbol.look():
                return symbol
        return next((symbol for symbol in self.syms if symbol.look()), None)


def number(text: str, base: int) -> int:
    """Read a number as C's strtol does: as far as it goes, else 0."""
    text = text.strip()
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-").lower()
    if base == 16:
        digits = digits.removeprefix("0x")
    end = 0
    allowed = "0123456789abcdef"[:base]
    while end < len(digits) and digits[end] in allowed:
        end += 1
    return sign * int(digits[:end] or "0", base)
