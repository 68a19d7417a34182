# SPDX-License-Identifier: GPL-2.0-or-later
"""Goes through the questions of a tree in the order of its menus, as old programs do.

Up to 2.6.26 allnoconfig, allyesconfig, allmodconfig and defconfig are this walk, each
question getting a fixed answer; an answer is final although later ones can change
what it was given on. oldconfig is the same walk with empty answers, and still is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kconfiglib
from kconfiglib import BOOL, COMMENT, HEX, MENU, STRING, TRISTATE

from kconfig import dialect
from kconfig.dialect import Version
from kconfig.reading import within
from kconfig.values import truth

# Each round asks what the one before brought up; the program goes on for ever.
_ROUNDS = 100


def walk(kconf: kconfiglib.Kconfig, version: Version, answer: str = "") -> None:
    """Ask every question that has no answer yet, until none is left.

    :param answer: n, m or y; nothing for the value shown; "again" for that, set once
        more where there is an answer already (defconfig).
    """
    walker = _Walk(kconf, version, answer)
    walker.ask(kconf.top_node)
    for _ in range(_ROUNDS):
        if not walker.ask_new(kconf.top_node):
            break


class _Walk:
    def __init__(self, kconf: Any, version: Version, answer: str) -> None:
        self.kconf = kconf
        self.answer = "" if answer == "again" else answer
        self.again = dialect.ANSWERS_KNOWN.holds(version)
        self.texts_again = self.again or answer == "again"
        self.first_below = dialect.FIRST_BELOW.holds(version)

    # What there is to ask

    def visible(self, node: Any) -> bool:
        """Return whether a menu, comment or question would be shown."""
        if node.prompt is None:
            return False
        item = node.item
        if item is MENU or item is COMMENT:
            return bool(truth(node.dep))
        item.visibility  # noqa: B018 # the program looks, which has effects
        if truth(node.prompt[1]):
            return True
        if item.tri_value == 0:
            return False
        return any(self.visible(child) for child in _children(node))

    def has_value(self, item: Any) -> bool:
        return item.user_value is not None and item not in self.kconf.doubted_choices

    @staticmethod
    def changeable(item: Any) -> bool:
        return bool(item.visibility > item.selected)

    # Asking

    def ask(self, node: Any) -> None:
        """Ask what ``node`` and everything below it has to ask."""
        if not self.visible(node):
            return
        item = node.item
        if item.__class__ is kconfiglib.Choice:
            self._ask_choice(node)
            if item.tri_value != 1:
                return
        elif item.__class__ is kconfiglib.Symbol:
            if item.orig_type in (BOOL, TRISTATE):
                self._ask_level(item)
            elif item.orig_type:
                self._ask_text(item)
        for child in _children(node):
            self.ask(child)

    def ask_new(self, node: Any) -> bool:
        """Ask again the menu around every question that has no answer; return if there was."""
        if not self.visible(node):
            return False
        item, found = node.item, False
        is_choice = item.__class__ is kconfiglib.Choice
        is_question = is_choice or item.__class__ is kconfiglib.Symbol
        if (
            is_question
            and not self.has_value(item)
            and (self.changeable(item) or (is_choice and item.tri_value == 2))
        ):
            found = True
            around = node
            while around.item is not MENU:
                around = around.parent
            self.ask(around)
        for child in _children(node):
            found = self.ask_new(child) or found
        return found

    def _ask_text(self, symbol: Any) -> None:
        if not self.texts_again and (self.has_value(symbol) or not self.changeable(symbol)):
            return
        text = symbol.str_value
        if symbol.orig_type is not STRING and not within(symbol, text):
            return
        if symbol.orig_type is HEX and text[:2] not in ("0x", "0X"):
            text = f"0x{text}"
        if symbol.user_value != text:
            symbol.user_value = text
            self._changed(symbol)

    def _ask_level(self, item: Any) -> None:
        """Ask a bool, a tristate, or the mode of a choice."""
        known = self.has_value(item) or not self.changeable(item)
        if known and not self.again:
            return
        level = item.tri_value
        if self.answer and not known:
            level = self._answered(item)
        self._set(item, level)

    def _answered(self, item: Any) -> int:
        wanted = {"n": (0,), "m": (1, 0), "y": (2, 1, 0)}[self.answer]
        for level in wanted:
            if level == 1 and item.type is BOOL and self._possible(item, 2):
                return 2
            if self._possible(item, level):
                return level
        # The program then draws random levels until one is possible.
        return 2 if self._possible(item, 2) else 1

    def _possible(self, item: Any, level: int) -> bool:
        if item.visibility == 0 or (item.type is BOOL and level == 1):
            return False
        if item.visibility <= item.selected:
            return False
        if getattr(item, "choice", None) is not None and item.visibility == 2:
            return level == 2
        return bool(item.selected <= level <= item.visibility)

    def _set(self, item: Any, level: int) -> bool:
        before = item.tri_value
        if before != level and not self._possible(item, level):
            return False
        choice = getattr(item, "choice", None)
        self.kconf.doubted_choices.discard(item)
        if choice is not None and level == 2:
            choice.user_selection = item
            if choice.user_value is None:
                choice.user_value = 0
            self.kconf.doubted_choices.discard(choice)
            for member in choice.syms:
                # The program knows only what it has looked at.
                if member.user_value is None and member._cached_vis:
                    member.user_value = 0
        item.user_value = level
        if before != level:
            self._changed(item if choice is None else choice)
            if choice is not None:
                item._rec_invalidate()
        return True

    def _ask_choice(self, node: Any) -> None:
        choice = node.item
        if self.changeable(choice):
            self._ask_level(choice)
        if choice.tri_value != 2:
            return
        taken = choice.selection
        nodes = [n for n in _children(node) if self.visible(n)]
        nodes = [n for n in nodes if n.item.__class__ is kconfiglib.Symbol]
        child = next((n for n in nodes if n.item is taken), None)
        if len(nodes) == 1:
            child = nodes[0]
        if child is None:
            return
        self._set(child.item, 2)
        below = list(_children(child))
        for inner in below[:1] if self.first_below else below:
            self.ask(inner)

    def _changed(self, item: Any) -> None:
        """Let the change of ``item`` reach all that depends on it."""
        for choice in self.kconf.doubted_choices:
            if choice.user_value is not None:
                choice.user_value = None
                choice._rec_invalidate()
        item._rec_invalidate()
        if self.kconf.modules_unasked:
            self.kconf.modules_unasked = False
            self.kconf._invalidate_all()


def _children(node: Any) -> Iterator[Any]:
    child = node.list
    while child is not None:
        yield child
        child = child.next
