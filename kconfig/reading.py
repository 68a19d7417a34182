# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a .config into a tree as the tree's own program reads it.

The program does more than assign: it decides which of two assignments counts, and
afterwards forgets values that cannot hold, so that they count as never given. Both
changed over the years (conf_read in scripts/kconfig/confdata.c).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import kconfiglib
from kconfiglib import BOOL, HEX, INT, STRING, TRISTATE

from kconfig import dialect
from kconfig.dialect import Version
from kconfig.values import bounds, number

_LEVELS = {"n": 0, "m": 1, "y": 2}
_UNSET = re.compile(r"#(.)CONFIG_([^ ]*) is not set([^\r\n]*)")
_SET = re.compile(r"(C)ONFIG_([^=\n]*)=([^\n]*)")
_STRING = re.compile(r'"((?:[^\\"]|\\.)*)"')
_INT = re.compile(r"-?(?:0|[1-9][0-9]*)")
_HEX = re.compile(r"(?:0[xX])?[0-9a-fA-F]+")


def forget(kconf: kconfiglib.Kconfig, *, known: bool = True) -> None:
    """Take back every value the user gave; what a file says is all that counts from here.

    :param known: choices count as having a value, until reading shows that they have none.
    """
    for symbol in kconf.unique_defined_syms:
        symbol.user_value = None
    for choice in kconf.unique_choices:
        choice.user_value, choice.user_selection = (0 if known else None), None
    kconf.modules_unasked = False
    kconf.shown_choices.clear()
    kconf.doubted_choices.clear()
    kconf.odd_choices.clear()
    kconf.turns.clear()
    kconf._invalidate_all()


def read(kconf: kconfiglib.Kconfig, lines: Iterable[str], version: Version) -> None:
    """Assign the values in ``lines`` of a .config; what is no assignment is passed over.

    Names that the tree does not have are appended to ``kconf.missing_syms``.
    """
    first_wins = dialect.FIRST_WINS.holds(version)
    loose = dialect.LOOSE_LINES.holds(version)
    exact = dialect.EXACT_UNSET.holds(version)
    turns = kconf.turns if dialect.LISTED_CHOICES.holds(version) else None
    odd: set[Any] = set()
    for line in lines:
        if line.startswith("#"):
            match, value = _UNSET.match(line), None
            if match and ((match[1] != " " and not loose) or (match[3] and exact)):
                continue
        else:
            match = _SET.match(line)
            value = match[3].removesuffix("\r") if match else None
        if match is None:
            continue
        symbol = kconf.syms.get(match[2])
        if symbol is None or not symbol.nodes:
            kconf.missing_syms.append((match[2], "n" if value is None else value))
            continue
        if not (first_wins and symbol.user_value is not None):
            given = _value(symbol, value)
            if given is not None:
                symbol.user_value = given
            elif not loose:
                continue
        choice = symbol.choice
        if choice is not None and turns is not None:
            turns.setdefault(choice, {}).pop(symbol, None)
            turns[choice][symbol] = None
        if choice is not None and symbol.user_value:
            _take(symbol, first_wins, odd)
    for choice in odd:
        kconf.odd_choices[choice] = choice.user_value
        choice.user_value = None
    kconf._invalidate_all()


def _value(symbol: Any, text: str | None) -> Any:
    """Return ``text`` as a user value of ``symbol``; None when it is none."""
    kind = symbol.orig_type
    if kind in (BOOL, TRISTATE):
        level = 0 if text is None else _LEVELS.get(text[:1])
        return None if level == 1 and kind is BOOL else level
    if text is None:
        return None
    if kind is STRING:
        match = _STRING.match(text)
        return kconfiglib.unescape(match[1]) if match else None
    return text if valid(kind, text) else None


def valid(kind: int, text: str) -> bool:
    """Return whether ``text`` is a number of that type."""
    if kind is INT:
        return _INT.fullmatch(text) is not None
    return kind is HEX and _HEX.fullmatch(text) is not None


def _take(member: Any, first_wins: bool, odd: set[Any]) -> None:
    """Let a choice know that ``member`` was given m or y; contradictions make it ``odd``."""
    choice = member.choice
    so_far = choice.user_value or 0
    if member.user_value == 2 and so_far and first_wins:
        odd.add(choice)
    elif member.user_value == 2:
        choice.user_selection = member
    elif so_far == 2:
        odd.add(choice)
    choice.user_value = max(so_far, member.user_value)


def settle(kconf: Any, version: Version) -> None:
    """Forget values that cannot hold, as the program does after reading a whole file.

    A choice of which not every visible member has a value is to be asked again: it
    joins ``kconf.doubted_choices``, and keeps its mode until something changes.
    """
    if dialect.ZERO_NUMBERS.holds(version):
        return
    at_once = dialect.FORGETS_INVISIBLE.holds(version)
    outside = _clamped(kconf)
    agrees = True
    for symbol in _in_turn(kconf) if at_once else kconf.unique_defined_syms:
        agrees = _agrees(symbol) and symbol not in outside and agrees
        if at_once:
            _forget(symbol, symbol.visibility == 0, outside)
    for choice in kconf.unique_choices if dialect.DOUBTED_CHOICES.holds(version) else ():
        # Asked for its value even if nothing depends on it: it may be shown.
        if choice.visibility == 0 and at_once:
            kconf.doubted_choices.add(choice)
        if any(s.user_value is None and s.visibility for s in choice.syms):
            kconf.doubted_choices.add(choice)
    for symbol in () if at_once else kconf.unique_defined_syms:
        _forget(symbol, symbol.visibility == 0 and agrees, outside)
        agrees = agrees and symbol not in outside


def _clamped(kconf: Any) -> set[Any]:
    """Put numbers that are out of range at their bounds for now; return their symbols."""
    outside = set()
    for symbol in kconf.unique_defined_syms:
        if symbol.orig_type not in (INT, HEX) or symbol.user_value is None:
            continue
        limits = bounds(symbol)
        value = number(symbol.user_value, 10 if symbol.orig_type is INT else 16)
        if limits is not None and not limits[0] <= value <= limits[1]:
            nearest = limits[0] if value < limits[0] else limits[1]
            symbol.user_value = str(nearest) if symbol.orig_type is INT else hex(nearest)
            outside.add(symbol)
    # The program has not looked at anything yet; in a loop it matters who is first.
    kconf._invalidate_all()
    return outside


def _forget(symbol: Any, invisible: bool, outside: set[Any]) -> None:
    if symbol in outside:
        symbol.user_value = None
        # What was computed from it stays, until something else changes.
        symbol._invalidate()
    elif invisible and symbol.choice is None:
        symbol.user_value = None


def _in_turn(kconf: Any) -> list[Any]:
    """Return the symbols in the order of the program's table of names.

    It has 256 lists; in each of them the name met last in the Kconfig files comes first.
    """
    met = [symbol for symbol in reversed(kconf.syms.values()) if symbol.nodes]
    return sorted(met, key=lambda symbol: sum(map(ord, symbol.name)) & 255)


def reconsider(kconf: kconfiglib.Kconfig) -> None:
    """Compute everything anew: choices in doubt lose their mode, later odd ones get it back."""
    for choice in kconf.doubted_choices:
        choice.user_value = None
    if not dialect.DOUBTED_CHOICES.holds(kconf.version):
        for choice, mode in kconf.odd_choices.items():
            choice.user_value = mode
    kconf._invalidate_all()


def _agrees(symbol: Any) -> bool:
    value = symbol.tri_value if symbol.orig_type in (BOOL, TRISTATE) else symbol.str_value
    if symbol.env_var is not None:
        return True
    written = symbol._write_to_conf
    if symbol.choice is not None:
        written = written or symbol.choice in symbol.kconfig.shown_choices
    if symbol.user_value is None or not written:
        return symbol.user_value is None and not written
    return bool(value == symbol.user_value)


def within(symbol: Any, text: str) -> bool:
    """Return whether ``text`` is a number of the symbol's type and in its range."""
    if not valid(symbol.orig_type, text):
        return False
    limits = bounds(symbol)
    base = 10 if symbol.orig_type is INT else 16
    return limits is None or limits[0] <= int(text, base) <= limits[1]
