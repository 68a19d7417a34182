# SPDX-License-Identifier: GPL-2.0-or-later
"""Says why a symbol has its value: the dependency, choice or select that decided."""

from __future__ import annotations

from typing import Any

import kconfiglib
from kconfiglib import AND, OR, TRI_TO_STR, expr_str, expr_value, split_expr


def obstacle(symbol: kconfiglib.Symbol, want: str) -> str:
    """Return what stood in the way of ``want``, such as "needs NET, which is n".

    :param symbol: a defined symbol whose value is not ``want``.
    """
    if symbol.orig_type in (kconfiglib.BOOL, kconfiglib.TRISTATE):
        if want not in kconfiglib.STR_TO_TRI:
            return f"a {kconfiglib.TYPE_TO_STR[symbol.orig_type]} cannot be {want!r}"
        level = kconfiglib.STR_TO_TRI[want]
        if level == 1 and symbol.type == kconfiglib.BOOL:
            return (
                "it is y or n, never m"
                if symbol.orig_type == kconfiglib.BOOL
                else "modules are off"
            )
        return _too_high(symbol) if symbol.tri_value > level else _too_low(symbol, level)
    missing = unmet(symbol.direct_dep, 2)
    if missing:
        return "needs " + " and ".join(missing)
    if not any(node.prompt for node in symbol.nodes):
        return "it has no prompt: its value follows from its defaults"
    return f"{want!r} is not a value it accepts"


def _too_high(symbol: kconfiglib.Symbol) -> str:
    by = [expr_str(part) for part in split_expr(symbol.rev_dep, OR) if expr_value(part) > 0]
    if by:
        return "selected by " + ", ".join(by)
    if symbol.choice is not None and symbol.choice.selection is symbol:
        return f"it is what the choice {_choice(symbol.choice)} has"
    if symbol.visibility == 0:
        return f"it cannot be set here, and its default is {symbol.str_value}"
    return "the tree allows no lower value"


def _too_low(symbol: kconfiglib.Symbol, level: int) -> str:
    missing = unmet(symbol.direct_dep, level)
    if missing:
        return "needs " + " and ".join(missing)
    choice = symbol.choice
    if choice is not None:
        taken = choice.selection
        if taken is not None and taken is not symbol:
            return f"the choice {_choice(choice)} has {taken.name}"
        missing = unmet(choice.direct_dep, level)
        if missing:
            return f"the choice {_choice(choice)} needs " + " and ".join(missing)
    prompts = [node.prompt[1] for node in symbol.nodes if node.prompt]
    if not prompts:
        selectors = expr_str(symbol.rev_dep) if symbol.rev_dep is not symbol.kconfig.n else ""
        return "it has no prompt" + (f": only {selectors} turns it on" if selectors else "")
    missing = [part for condition in prompts for part in unmet(condition, level)]
    return "its prompt needs " + " and ".join(missing) if missing else "unknown to this program"


def _choice(choice: kconfiglib.Choice) -> str:
    for node in choice.nodes:
        if node.prompt:
            return f"'{node.prompt[0]}'"
    return "without a name"


def unmet(condition: Any, level: int) -> list[str]:
    """Return the parts of ``condition`` that are below ``level``, with their values."""
    if expr_value(condition) >= level:
        return []
    parts = []
    for part in split_expr(condition, AND):
        value = expr_value(part)
        if value < level:
            text = f"{expr_str(part)}, which is {TRI_TO_STR[value]}"
            if isinstance(part, kconfiglib.Symbol) and not part.nodes:
                text = f"{part.name}, which this tree does not have"
            elif isinstance(part, kconfiglib.Symbol) and part.choice is not None:
                taken = part.choice.selection
                if taken is not None and taken is not part:
                    text += f" because the choice {_choice(part.choice)} has {taken.name}"
            if text not in parts:
                parts.append(text)
    return parts
