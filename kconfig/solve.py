# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the shortest set of changes that gives a symbol a value.

A search over sets of changes (A*): each state is a set of assignments, applied to the
tree as a user would make them, so that selects, defaults and choices have their say.
What stands in the way of the goal in that state names the changes to try next, each with
a lower bound of what it still costs. The first state that reaches the goal is a shortest
one, within what the bounds can know: see tests/test_solve.py, where every set of
changes of small trees is tried.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import kconfiglib
from kconfiglib import (
    AND,
    BOOL,
    EQUAL,
    NOT,
    OR,
    STR_TO_TRI,
    TRI_TO_STR,
    TRISTATE,
    UNEQUAL,
    expr_value,
    split_expr,
)

from kconfig import dialect
from kconfig.values import truth

_TRUTH = (BOOL, TRISTATE)
# So many states are looked at for a shortest set, then as many for any set:
# some seconds, on a current kernel.
MOST_STATES = 600
# Of equally short sets, the one with the fewest side effects among so many is taken.
_TIES = 40
# A chain of dependencies longer than this is not followed in one step.
_DEEP = 24
_NEVER = 1000

Goal = tuple[str, Any, int]  # "least" or "most", a symbol or choice, 0 to 2
Costs = dict["Change", int]


class Change(NamedTuple):
    """One line to change: ``symbol`` gets ``value``."""

    symbol: str
    value: str


class Effect(NamedTuple):
    """A symbol that changes along with the others."""

    symbol: str
    before: str
    after: str


class Solution(NamedTuple):
    """``changes`` to make, in this order, and what ``effects`` they have besides.

    ``shortest`` is False when the search for a shortest set was given up.
    """

    changes: tuple[Change, ...]
    effects: tuple[Effect, ...]
    shortest: bool = True


def evaluator(kconf: kconfiglib.Kconfig) -> Callable[[Any], int]:
    """Return what computes expressions as a kernel of this tree's age does."""
    early: bool = dialect.EARLY_VALUES.holds(kconf.version)
    return truth if early else expr_value


def assign(symbol: kconfiglib.Symbol, value: str) -> bool:
    """Give a symbol a value as a user does; a member of a choice turns the choice on.

    :returns: whether it is a value for a symbol of that type.
    """
    choice = symbol.choice
    if choice is not None and value in STR_TO_TRI and STR_TO_TRI[value]:
        level = STR_TO_TRI[value]
        if choice.tri_value != level:
            choice.set_value(level if choice.orig_type is TRISTATE else 2)
    return bool(symbol.set_value(value))


def solve(
    kconf: kconfiglib.Kconfig, name: str, want: str, *, most_states: int = MOST_STATES
) -> Solution | None:
    """Return the shortest set of changes to the present values that makes ``name`` ``want``.

    :param kconf: a tree as kconfig.tree.load returns it, a configuration loaded. Its values
        are the same afterwards.
    :param name: a bool or tristate.
    :param want: y, m or n.
    :returns: None when there is none, or none was found in ``most_states`` steps.
    """
    search = _Search(kconf, kconf.syms[name], STR_TO_TRI[want])
    found = search.run(most_states)
    if found is None and search.gave_up:
        found = search.run(most_states, hurry=True)
    return found


class _Search:
    def __init__(self, kconf: kconfiglib.Kconfig, target: Any, level: int) -> None:
        self.kconf = kconf
        self.target = target
        self.level = level
        self.value = evaluator(kconf)
        # What is forced against its dependencies already is no fault of a solution.
        self.forced = self._is_forced()
        self.costs: dict[Goal, Costs | None] = {}
        self.gave_up = False

    def run(self, most_states: int, *, hurry: bool = False) -> Solution | None:
        """Search; ``gave_up`` tells afterwards whether states were left.

        :param hurry: go on from the state reached last, to any solution.
        """
        start: frozenset[Change] = frozenset()
        heap: list[tuple[int, int, int, frozenset[Change]]] = [(0, 0, 0, start)]
        seen = {start}
        found: list[Solution] = []
        last = most_states
        count = 0
        while heap and count < last:
            bound, _, _, state = heapq.heappop(heap)
            if found and bound > len(found[0].changes):
                break
            count += 1
            with self._applied(state):
                met = self.met()
                costs = {} if met else self.costs_of_target()
            if met:
                found.append(self._solution(state)._replace(shortest=not hurry))
                last = min(last, count + _TIES) if not hurry else count
            for change, cost in costs.items():
                after = frozenset(c for c in state if c.symbol != change.symbol) | {change}
                estimate = cost - 100 * len(after) if hurry else max(bound, len(after) - 1 + cost)
                if change in state or after in seen or cost >= _NEVER:
                    continue
                seen.add(after)
                heapq.heappush(heap, (estimate, -len(after), len(seen), after))
        self.gave_up = bool(heap)
        if not found:
            return None
        return min(found, key=lambda s: (len(s.changes), len(s.effects), s.changes))

    def met(self) -> bool:
        return bool(self.target.tri_value == self.level) and (self.forced or not self._is_forced())

    def _is_forced(self) -> bool:
        allowed = self.value(self.target.direct_dep)
        if allowed == 1 and self.target.type is BOOL:
            allowed = 2
        return min(self.value(self.target.rev_dep), 2) > allowed

    @contextmanager
    def _applied(self, changes: Iterable[Change]) -> Iterator[None]:
        """Make changes, and take them back."""
        kconf = self.kconf
        symbols = [kconf.syms[change.symbol] for change in changes]
        choices = {symbol.choice for symbol in symbols if symbol.choice is not None}
        former = [(symbol, symbol.user_value) for symbol in symbols]
        modes = [(choice, choice.user_value, choice.user_selection) for choice in choices]
        turns = {choice: dict(kconf.turns.get(choice, {})) for choice in choices}
        # A member set to y decides for the others: last, as a user would.
        for change in sorted(changes, key=lambda c: (c.value != "n", c)):
            assign(kconf.syms[change.symbol], change.value)
        try:
            yield
        finally:
            for symbol, value in former:
                symbol.user_value = value
            for choice, mode, selection in modes:
                choice.user_value, choice.user_selection = mode, selection
                if choice in kconf.turns:
                    kconf.turns[choice] = turns[choice]
            for item in (*symbols, *choices):
                item._rec_invalidate()
            self.costs.clear()

    def _solution(self, state: frozenset[Change]) -> Solution:
        # What other changes bring along need not be asked for.
        needed = set(state)
        for change in sorted(state):
            with self._applied(needed - {change}):
                if self.met():
                    needed.discard(change)
        before = self._values()
        with self._applied(needed):
            self.kconf._invalidate_all()
            after = self._values()
        self.kconf._invalidate_all()
        named = {self.target.name, *(change.symbol for change in needed)}
        effects = [
            Effect(name, before[name], value)
            for name, value in after.items()
            if value != before[name] and name not in named
        ]
        return Solution(self._in_order(needed), tuple(effects))

    def _in_order(self, changes: set[Change]) -> tuple[Change, ...]:
        """Order changes as a menu would let a user make them: what is needed first."""
        left = sorted(changes, key=lambda c: (c.symbol == self.target.name, c))
        done: list[Change] = []
        while left:
            with self._applied(done):
                ready = next((c for c in left if self._settable(c)), left[0])
            left.remove(ready)
            done.append(ready)
        return tuple(done)

    def _settable(self, change: Change) -> bool:
        symbol = self.kconf.syms[change.symbol]
        if symbol.orig_type in _TRUTH:
            return bool(STR_TO_TRI[change.value] in symbol.assignable)
        return bool(symbol.visibility)

    def _values(self) -> dict[str, str]:
        return {s.name: s.str_value for s in self.kconf.unique_defined_syms}

    # What could be changed for a goal, and at least how many changes that takes. None: nothing.

    def costs_of_target(self) -> Costs:
        """Return the changes to try next in the present state."""
        target, level = self.target, self.level
        if level == 1 and not self.kconf.modules.tri_value:
            found = self.least(self.kconf.modules, 2, _DEEP)
        elif target.tri_value < level:
            found = self.least(target, level, _DEEP)
        elif target.tri_value > level:
            found = self.most(target, level, _DEEP)
        else:  # forced: its dependencies are to be met
            found = self.true(target.direct_dep, level, _DEEP)
        return found or {}

    def least(self, item: Any, level: int, depth: int) -> Costs | None:
        """Make a symbol or choice at least ``level``."""
        if item.tri_value >= level:
            return {}
        return self._known(("least", item, level), self._least, depth)

    def most(self, item: Any, level: int, depth: int) -> Costs | None:
        """Make a symbol or choice at most ``level``."""
        if item.tri_value <= level:
            return {}
        return self._known(("most", item, level), self._most, depth)

    def _known(
        self, goal: Goal, find: Callable[[Any, int, int], Costs | None], depth: int
    ) -> Costs | None:
        if goal in self.costs:
            return self.costs[goal]
        if depth <= 0:
            return None
        self.costs[goal] = None  # whoever comes back here goes in a circle
        found = find(goal[1], goal[2], depth - 1)
        if not found and not isinstance(goal[1], kconfiglib.Choice):
            # A way that seems open already is one that something unforeseen blocks. (A
            # choice that is only to be turned on is: setting a member does it.)
            found = None
        self.costs[goal] = found
        return found

    def _least(self, item: Any, level: int, depth: int) -> Costs | None:
        if isinstance(item, kconfiglib.Choice):
            return self._all(self._shown(item, level, depth))
        if item.orig_type not in _TRUTH or not item.nodes:
            return None
        if item.type is BOOL and not self._can_be_m(item):
            level = 2
        ways = [self._by_prompt(item, level, depth)]
        if item.choice is None:
            ways.append(self.true(item.rev_dep, level, depth))
            ways.append(self._by_default(item, level, depth))
        return _any(ways)

    def _can_be_m(self, symbol: Any) -> bool:
        """Tell whether a member is a bool only as long as its tristate choice is y."""
        choice = symbol.choice
        if choice is None or not self.kconf.modules.tri_value:
            return False
        return bool(choice.orig_type is TRISTATE is symbol.orig_type)

    def _shown(self, item: Any, level: int, depth: int) -> list[Costs | None]:
        """Make the prompt of a symbol or choice allow ``level``."""
        enough = 1 if item.orig_type is BOOL and level else level
        prompts = [node.prompt[1] for node in item.nodes if node.prompt]
        if not prompts:
            return [None]
        shown = _any([self.true(condition, enough, depth) for condition in prompts], opened=True)
        return [self.true(item.direct_dep, enough, depth), shown]

    def _by_prompt(self, symbol: Any, level: int, depth: int) -> Costs | None:
        parts = self._shown(symbol, level, depth)
        choice = symbol.choice
        if choice is not None:
            parts.append(self.true(choice.direct_dep, min(level, 1), depth))
            parts += self._shown(choice, min(level, 1), depth)
        hidden = self._all(parts)
        if hidden is None:
            return None
        if not hidden:
            # y where m is enough can bring more along.
            return {Change(symbol.name, TRI_TO_STR[n]): 1 for n in range(level, 3)}
        # It may turn itself on once it can be had; otherwise it is one change more.
        itself = symbol.defaults or symbol.user_value == level or choice is not None
        itself = itself or symbol.weak_rev_dep is not self.kconf.n
        extra = 0 if itself else 1
        return {key: cost + extra for key, cost in hidden.items()}

    def _by_default(self, symbol: Any, level: int, depth: int) -> Costs | None:
        enough = 1 if symbol.orig_type is BOOL else level
        ways = []
        # The first default whose condition holds is the one that counts.
        earlier: list[Costs | None] = []
        for value, condition in symbol.defaults:
            parts = [self.true(value, enough, depth), self.true(condition, enough, depth)]
            parts.append(self.true(symbol.direct_dep, enough, depth))
            ways.append(self._all([*parts, *earlier]))
            earlier.append(self.false(condition, 0, depth))
        if symbol.weak_rev_dep is not self.kconf.n:
            parts = [self.true(symbol.weak_rev_dep, enough, depth)]
            ways.append(self._all([*parts, self.true(symbol.direct_dep, enough, depth)]))
        return _any(ways)

    def _most(self, item: Any, level: int, depth: int) -> Costs | None:
        if isinstance(item, kconfiglib.Choice):
            ways = [self.false(item.direct_dep, level, depth)]
            if item.orig_type is TRISTATE:
                ways.append(self.least(self.kconf.modules, 2, depth) or None)
            return _any(ways)
        if item.orig_type not in _TRUTH or not item.nodes:
            return None
        if item.type is BOOL and not self._can_be_m(item):
            level = 0
        choice = item.choice
        if choice is not None:
            ways = [self.false(item.direct_dep, level, depth), self.most(choice, level, depth)]
            ways.append(
                self._all([self.false(n.prompt[1], level, depth) for n in item.nodes if n.prompt])
            )
            ways += [self.least(s, 2, depth) for s in choice.syms if s is not item]
            if level == 1 and self._can_be_m(item):
                ways.append({Change(item.name, "m"): 1})
            return _any(ways)
        selected = self.false(item.rev_dep, level, depth)
        if selected or selected is None:
            return selected
        ways = [self.false(item.direct_dep, level, depth)]
        if item.visibility and (level != 1 or item.type is TRISTATE):
            ways.append({Change(item.name, TRI_TO_STR[n]): 1 for n in {level, 0}})
        elif not item.visibility:
            ways.append(self._all(self._shown(item, 1, depth)) or None)
            ways.append(self._without_default(item, level, depth))
        return _any(ways)

    def _without_default(self, symbol: Any, level: int, depth: int) -> Costs | None:
        """Take away what gives a symbol its value when nobody can set it."""
        parts = [self.false(symbol.weak_rev_dep, level, depth)]
        for value, condition in symbol.defaults:
            if self.value(condition):
                lower = [self.false(value, level, depth), self.false(condition, 0, depth)]
                parts.append(_any(lower))
                break
        return self._all(parts) or None

    def true(self, expression: Any, level: int, depth: int) -> Costs | None:
        """Make an expression at least ``level``."""
        if self.value(expression) >= level:
            return {}
        if expression.__class__ is not tuple:
            return self.least(expression, level, depth)
        operator = expression[0]
        if operator is AND:
            return self._all([self.true(p, level, depth) for p in split_expr(expression, AND)])
        if operator is OR:
            return _any([self.true(p, level, depth) for p in split_expr(expression, OR)])
        if operator is NOT:
            return self.false(expression[1], 2 - level, depth)
        return self._compared(expression, depth)

    def false(self, expression: Any, level: int, depth: int) -> Costs | None:
        """Make an expression at most ``level``."""
        if self.value(expression) <= level:
            return {}
        if expression.__class__ is not tuple:
            return self.most(expression, level, depth)
        operator = expression[0]
        if operator is AND:
            return _any([self.false(p, level, depth) for p in split_expr(expression, AND)])
        if operator is OR:
            return self._all([self.false(p, level, depth) for p in split_expr(expression, OR)])
        if operator is NOT:
            return self.true(expression[1], 2 - level, depth)
        return self._compared((_OPPOSITE[operator], expression[1], expression[2]), depth)

    def _compared(self, expression: Any, depth: int) -> Costs | None:
        """Make ``A = B`` and the like true."""
        operator, left, right = expression
        ways = []
        for one, other in ((left, right), (right, left)):
            if not one.nodes or one.is_constant:
                continue
            if one.orig_type in _TRUTH:
                ways.append(self._level(one, operator, other.str_value, depth))
            elif one.visibility:
                ways += [{Change(one.name, text): 1} for text in self._texts(one, other, operator)]
            else:
                ways.append(self._all(self._shown(one, 1, depth)) or None)
        return _any(ways)

    def _level(self, symbol: Any, operator: Any, text: str, depth: int) -> Costs | None:
        if text not in STR_TO_TRI or operator not in (EQUAL, UNEQUAL):
            return None
        level, have = STR_TO_TRI[text], symbol.tri_value
        if operator is EQUAL:
            if have < level:
                return self.least(symbol, level, depth)
            return self.most(symbol, level, depth)
        ways = []
        if level < 2:
            ways.append(self.least(symbol, level + 1, depth))
        if level > 0:
            ways.append(self.most(symbol, level - 1, depth))
        return _any(ways)

    def _texts(self, symbol: Any, other: Any, operator: Any) -> Iterator[str]:
        """Return values to try for a text or number: the other's, and what is beside it."""
        text = other.str_value
        if operator not in (UNEQUAL,):
            yield text
        try:
            number = int(text, 16 if text.lower().startswith("0x") else 10)
        except ValueError:
            if operator is UNEQUAL:
                yield text + "-"
            return
        if operator is not EQUAL:
            form: Callable[[int], str] = hex if symbol.orig_type == kconfiglib.HEX else str
            yield form(number + 1)
            if number > 0:
                yield form(number - 1)

    def _all(self, parts: Sequence[Costs | None]) -> Costs | None:
        """Combine goals that must all be met; the dearest one is tried first."""
        if any(part is None for part in parts):
            return None
        open_parts = [part for part in parts if part]
        if not open_parts:
            return {}
        dearest = max(open_parts, key=lambda part: min(part.values()))
        return dict(dearest)


_OPPOSITE: Mapping[Any, Any] = {
    EQUAL: UNEQUAL,
    UNEQUAL: EQUAL,
    kconfiglib.LESS: kconfiglib.GREATER_EQUAL,
    kconfiglib.GREATER_EQUAL: kconfiglib.LESS,
    kconfiglib.GREATER: kconfiglib.LESS_EQUAL,
    kconfiglib.LESS_EQUAL: kconfiglib.GREATER,
}


def _any(ways: Iterable[Costs | None], *, opened: bool = False) -> Costs | None:
    """Combine ways to one goal; ``opened`` tells that {}, nothing to do, can be true of one."""
    found: Costs = {}
    for way in ways:
        if opened and way == {}:
            return {}
        for change, cost in (way or {}).items():
            found[change] = min(cost, found.get(change, _NEVER))
    return found or None
